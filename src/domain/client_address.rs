//! Which address a request comes from, given who may speak for others.

use std::net::IpAddr;

use ipnet::IpNet;

/// The client's address: the peer, unless the peer is trusted to name it in `X-Forwarded-For`. All lines
/// are joined and walked from the right; the first address that is not trusted is the client; an element
/// that is no address ends the walk at the last good one.
pub fn client_address<'a, I>(peer: IpAddr, trusted: &[IpNet], forwarded_for: I) -> IpAddr
where
    I: DoubleEndedIterator<Item = &'a [u8]>,
{
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    for line in forwarded_for.rev() {
        for element in line.rsplit(|byte| *byte == b',') {
            let Some(address) = parse_element(element) else {
                return client;
            };
            client = address;
            if !is_trusted(client, trusted) {
                return client;
            }
        }
    }
    client
}

/// What per-address limits are keyed by: the address for IPv4, the /64 for IPv6.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(octets.into())
        }
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    let text = text.trim_matches('"');
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        let port_is_fine =
            after.is_empty() || after.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
        return port_is_fine
            .then(|| inside.parse::<IpAddr>().ok())
            .flatten()
            .map(|ip| ip.to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(peer: &str, trusted: &[&str], lines: &[&str]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        client_address(
            peer.parse().unwrap(),
            &trusted,
            lines.iter().map(|l| l.as_bytes()),
        )
        .to_string()
    }

    #[test]
    fn the_walk_goes_from_the_right_and_stops_at_the_first_stranger() {
        let table: &[(&str, &[&str], &[&str], &str)] = &[
            ("1.2.3.4", &[], &["9.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.0/8"], &[], "10.0.0.1"),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["6.6.6.6, 9.9.9.9, 10.0.0.2"],
                "9.9.9.9",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["6.6.6.6", "9.9.9.9:443"],
                "9.9.9.9",
            ),
            ("10.0.0.1", &["10.0.0.0/8"], &["nonsense, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["9.9.9.9, unknown"], "10.0.0.1"),
            (
                "::ffff:10.0.0.1",
                &["10.0.0.0/8"],
                &["[2001:db8::1]:8080"],
                "2001:db8::1",
            ),
            ("10.0.0.1", &["10.0.0.0/8"], &["::ffff:9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["10.0.0.0/8"], &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ];
        for (peer, trusted, lines, expected) in table {
            assert_eq!(
                walk(peer, trusted, lines),
                *expected,
                "{peer} {trusted:?} {lines:?}"
            );
        }
    }

    #[test]
    fn ipv6_is_limited_by_its_64() {
        let key = |text: &str| limit_key(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2:ffff::1"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:1.2.3.4"), key("1.2.3.4"));
    }
}
