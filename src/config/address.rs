//! Addresses as the configuration writes them: where we listen, where a provider is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// `host:port`, `[::]:port` or `:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// A name or an address without brackets; empty is every address of the machine, IPv4 and IPv6.
    pub host: String,
    /// 0 lets the system choose.
    pub port: u16,
}

impl ListenAddress {
    /// A port on a host.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// A port on every address of the machine.
    pub fn any(port: u16) -> Self {
        Self::new("", port)
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is no address to listen on; write `host:port`, `[::]:port` or `:port`".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| port.parse().ok())
            .flatten()
            .ok_or_else(wrong)?;
        if let Some(inside) = host.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or_else(wrong)?;
            inside.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            return Ok(Self::new(inside, port));
        }
        let host = if host == "*" { "" } else { host };
        if host.is_empty() || is_host_name(host) {
            Ok(Self::new(host, port))
        } else {
            Err(wrong())
        }
    }
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// Where a provider is: `https://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name or an address, IPv6 without brackets, in lower case.
    pub host: String,
    /// The scheme's own port when none is written.
    pub port: u16,
    /// What stands before the client's path: empty, or starting with `/` and not ending with one.
    pub path: String,
}

impl BaseUrl {
    /// A host at port 443.
    pub fn https(host: &str) -> Self {
        Self {
            scheme: Scheme::Https,
            host: host.to_owned(),
            port: 443,
            path: String::new(),
        }
    }

    /// The address of the demo dialect, which opens no connection.
    pub fn demo() -> Self {
        Self {
            scheme: Scheme::Http,
            host: "demo.invalid".to_owned(),
            port: 80,
            path: String::new(),
        }
    }

    /// Whether it is reached through TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// What goes into the `Host` header: the port only when it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "write `https://host`, `https://host:port` or `https://host/path`";
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            _ => return Err(format!("is no http or https address; {SHAPE}")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("has a user name in it; put the credential into `api_key`".to_owned());
        }
        if path.contains(['?', '#']) {
            return Err(format!("has a query or a fragment, which is never sent; {SHAPE}"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic())
            || path.contains("//")
            || path.split('/').any(|s| s == "..")
        {
            return Err(format!("has a path that is not in normal form; {SHAPE}"));
        }
        let (host, port) =
            split_host_port(authority).ok_or_else(|| format!("has no valid host and port; {SHAPE}"))?;
        let port = port.unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
        Ok(Self {
            scheme,
            host,
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

fn split_host_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        inside.parse::<Ipv6Addr>().ok()?;
        (
            inside,
            after
                .strip_prefix(':')
                .or_else(|| after.is_empty().then_some(""))
                .map(str::to_owned)?,
        )
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if !is_host_name(host) {
            return None;
        }
        (host, port.to_owned())
    };
    let port = if port.is_empty() {
        None
    } else {
        Some(port.parse().ok().filter(|port| *port != 0)?)
    };
    Some((host.to_ascii_lowercase(), port))
}

fn is_host_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| !label.is_empty())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_and_written() {
        for text in [
            ":8080",
            "127.0.0.1:8081",
            "[::]:443",
            "localhost:0",
            "my-host.example:65535",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        assert_eq!("*:80".parse::<ListenAddress>().unwrap(), ListenAddress::any(80));
        for text in [
            "",
            "8080",
            "host",
            "host:",
            "host:+1",
            "host:65536",
            "::1:80",
            "[::1]",
            "[x]:1",
            "a b:1",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "`{text}`");
        }
    }

    #[test]
    fn only_loopback_addresses_are_loopback() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            (":1", false),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(
                text.parse::<ListenAddress>().unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn base_urls_are_taken_apart() {
        let url: BaseUrl = "https://API.openai.com/v1/".parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str()),
            ("api.openai.com", 443, "/v1")
        );
        assert_eq!(url.authority(), "api.openai.com");
        let url: BaseUrl = "http://[::1]:8000".parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.to_string().as_str()),
            ("::1", 8000, "http://[::1]:8000")
        );
        for text in [
            "api.openai.com",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x:0",
            "https://x:99999",
            "https://x/?a=1",
            "https://x/a/../b",
            "https://x y",
        ] {
            assert!(text.parse::<BaseUrl>().is_err(), "`{text}`");
        }
    }
}
