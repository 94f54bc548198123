//! Decides whether the sidecar's paths may be answered on the proxy listener.

use std::net::IpAddr;

use http::{HeaderMap, Version};

use crate::live::OnProxyListener;

/// `management.on_proxy_listener`, with what else the rule needs.
#[derive(Debug, Clone, Copy)]
pub struct OwnPathRule {
    /// Never, only to this machine's own users, or to all.
    pub mode: OnProxyListener,
    /// Whether `server.proxy_protocol` is on.
    pub proxy_protocol: bool,
    /// Whether `server.trusted_proxies` has entries.
    pub trusts_proxies: bool,
}

/// Why an own path was not answered, for the log line once a minute.
pub type NotLocal = &'static str;

impl OwnPathRule {
    /// Whether the request may reach the own paths; `Err` says why not.
    pub fn permits(
        self,
        peer: Option<IpAddr>,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), NotLocal> {
        match self.mode {
            OnProxyListener::All => Ok(()),
            OnProxyListener::Off => Err("`management.on_proxy_listener` is `off`"),
            OnProxyListener::Local => self.is_local(peer, version, headers),
        }
    }

    fn is_local(self, peer: Option<IpAddr>, version: Version, headers: &HeaderMap) -> Result<(), NotLocal> {
        if !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
            return Err("the peer is not a loopback address");
        }
        if self.proxy_protocol {
            return Err("`server.proxy_protocol` is on");
        }
        if self.trusts_proxies {
            return Err("`server.trusted_proxies` is set");
        }
        if version < Version::HTTP_11 {
            return Err("the request is older than HTTP/1.1");
        }
        if !headers
            .get(http::header::HOST)
            .is_some_and(|host| is_loopback_host(host.as_bytes()))
        {
            return Err("`Host` is not a loopback name");
        }
        if headers.keys().any(|name| speaks_of_a_proxy(name.as_str())) {
            return Err("a header of a reverse proxy is present");
        }
        Ok(())
    }
}

fn is_loopback_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inside, _)) => inside,
            None => return false,
        },
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn speaks_of_a_proxy(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip" | "via")
        || name.starts_with("x-forwarded-")
        || name.starts_with("cf-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(mode: OnProxyListener, peer: &str, version: Version, headers: &[(&str, &str)]) -> bool {
        let rule = OwnPathRule {
            mode,
            proxy_protocol: false,
            trusts_proxies: false,
        };
        let headers: HeaderMap = headers
            .iter()
            .map(|(n, v)| {
                (
                    http::HeaderName::try_from(*n).unwrap(),
                    http::HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect();
        rule.permits(peer.parse().ok(), version, &headers).is_ok()
    }

    type Row<'a> = (OnProxyListener, &'a str, Version, &'a [(&'a str, &'a str)], bool);

    #[test]
    fn only_what_looks_like_a_local_user_is_local() {
        use OnProxyListener::{All, Local, Off};
        let local: &[(&str, &str)] = &[("host", "localhost:8080")];
        let table: &[Row<'_>] = &[
            (Local, "127.0.0.1", Version::HTTP_11, local, true),
            (Local, "::1", Version::HTTP_2, &[("host", "[::1]:8080")], true),
            (
                Local,
                "127.0.0.1",
                Version::HTTP_11,
                &[("host", "127.0.0.1")],
                true,
            ),
            (Off, "127.0.0.1", Version::HTTP_11, local, false),
            (All, "9.9.9.9", Version::HTTP_10, &[], true),
            (Local, "9.9.9.9", Version::HTTP_11, local, false),
            (Local, "127.0.0.1", Version::HTTP_10, local, false),
            (
                Local,
                "127.0.0.1",
                Version::HTTP_11,
                &[("host", "edge.example.com")],
                false,
            ),
            (Local, "127.0.0.1", Version::HTTP_11, &[], false),
            (
                Local,
                "127.0.0.1",
                Version::HTTP_11,
                &[("host", "localhost"), ("x-forwarded-proto", "https")],
                false,
            ),
            (
                Local,
                "127.0.0.1",
                Version::HTTP_11,
                &[("host", "localhost"), ("via", "1.1 nginx")],
                false,
            ),
            (
                Local,
                "127.0.0.1",
                Version::HTTP_11,
                &[("host", "localhost"), ("cf-ray", "1")],
                false,
            ),
        ];
        for (mode, peer, version, headers, expected) in table {
            assert_eq!(
                verdict(*mode, peer, *version, headers),
                *expected,
                "{mode:?} {peer} {version:?} {headers:?}"
            );
        }
    }
}
