//! Reads a libpq URL: what tokio-postgres understands goes to it, what only libpq understands is read here.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode as Negotiation};

use crate::domain::Secret;
use crate::store::StoreError;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted only if the server does not take it otherwise.
    Allow,
    /// Encrypted if the server can; the default.
    Prefer,
    /// Encrypted; whoever answers.
    Require,
    /// Encrypted, and the certificate comes from a root that is trusted.
    VerifyCa,
    /// Encrypted, and the certificate also names the host.
    VerifyFull,
}

/// Where roots come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// `sslrootcert` is absent: libpq's own file if it is there, else the system's.
    Unsaid,
    /// `sslrootcert=system`.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// A URL, taken apart.
#[derive(Clone)]
pub(super) struct Target {
    /// Hosts, user, password and so on; its negotiation is set for each attempt.
    pub config: Config,
    pub mode: SslMode,
    pub roots: Roots,
    /// `sslcert` and `sslkey`: the client's own certificate.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    password: Secret,
}

/// One way to connect.
pub(super) struct Attempt {
    pub config: Config,
    pub with_tls: bool,
}

#[derive(Default)]
struct TlsWords {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// Parameters of libpq that change nothing here.
const WITHOUT_EFFECT: [&str; 9] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "sslcrl",
];

impl Target {
    /// Takes a URL apart. Errors never show more of it than a parameter's name.
    pub(super) fn parse(url: &Secret, timeout: Duration) -> Result<Self, StoreError> {
        let text = url.expose();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(wrong("it does not begin with `postgres://`"));
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (words, rest) = take_tls_words(query)?;
        let plain = Secret::new(if rest.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{rest}")
        });
        let mut config: Config = plain.expose().parse().map_err(|error| wrong(&reasons(&error)))?;
        complete(&mut config, timeout);
        let password = config
            .get_password()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default();
        let all_unix = config
            .get_hosts()
            .iter()
            .all(|host| matches!(host, Host::Unix(_)))
            && config.get_hostaddrs().is_empty();
        let roots = roots(words.root.as_deref());
        let mode = mode(words.mode.as_deref(), &roots)?;
        let client_certificate = match (words.certificate, words.key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err(wrong("`sslcert` and `sslkey` go together")),
        };
        Ok(Self {
            config,
            // TLS over a Unix socket does not exist.
            mode: if all_unix { SslMode::Disable } else { mode },
            roots,
            client_certificate,
            password: Secret::new(password),
        })
    }

    /// A text without the password, should a library have put it there.
    pub(super) fn redacted(&self, text: &str) -> String {
        if self.password.expose().len() < 4 {
            return text.to_owned();
        }
        text.replace(self.password.expose(), "[redacted]")
    }

    /// What to try, and what else if that fails.
    pub(super) fn attempts(&self) -> (Attempt, Option<Attempt>) {
        let with = |negotiation: Negotiation| {
            let mut config = self.config.clone();
            config.ssl_mode(negotiation);
            Attempt {
                config,
                with_tls: negotiation != Negotiation::Disable,
            }
        };
        match self.mode {
            SslMode::Disable => (with(Negotiation::Disable), None),
            SslMode::Allow => (with(Negotiation::Disable), Some(with(Negotiation::Require))),
            SslMode::Prefer => (with(Negotiation::Prefer), Some(with(Negotiation::Disable))),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (with(Negotiation::Require), None),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("hosts", &self.config.get_hosts())
            .field("mode", &self.mode)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

fn complete(config: &mut Config, timeout: Duration) {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host("localhost");
    }
    if config.get_hosts().is_empty() {
        // The name that a certificate has to have.
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(timeout);
    }
    if config.get_application_name().is_none() {
        config.application_name("llm-proxy");
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(timeout.max(Duration::from_secs(5)));
    }
    config.keepalives_idle(Duration::from_secs(10));
    config.keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3);
}

fn take_tls_words(query: &str) -> Result<(TlsWords, String), StoreError> {
    let mut words = TlsWords::default();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = match key {
            "sslmode" => &mut words.mode,
            "sslrootcert" => &mut words.root,
            "sslcert" => &mut words.certificate,
            "sslkey" => &mut words.key,
            _ if WITHOUT_EFFECT.contains(&key) => continue,
            _ => {
                rest.push(pair);
                continue;
            }
        };
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| wrong(&format!("`{key}` is not UTF-8")))?;
        if !value.is_empty() {
            *slot = Some(value.into_owned());
        }
    }
    Ok((words, rest.join("&")))
}

fn roots(word: Option<&str>) -> Roots {
    match word {
        None => Roots::Unsaid,
        Some("system") => Roots::System,
        Some(path) => Roots::File(path.into()),
    }
}

fn mode(word: Option<&str>, roots: &Roots) -> Result<SslMode, StoreError> {
    let mode = match word {
        None if *roots == Roots::System => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        // As libpq does: a root that is named is also checked.
        Some("require") if !matches!(roots, Roots::File(_)) => SslMode::Require,
        Some("require" | "verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            return Err(wrong(&format!(
                "`sslmode={other}` is none of disable, allow, prefer, require, verify-ca, verify-full"
            )));
        }
    };
    if *roots == Roots::System && mode != SslMode::VerifyFull {
        return Err(wrong("`sslrootcert=system` goes with `sslmode=verify-full` only"));
    }
    Ok(mode)
}

fn wrong(why: &str) -> StoreError {
    StoreError::Unavailable(format!("`database.url` cannot be used: {why}"))
}

/// An error with its causes.
pub(super) fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, StoreError> {
        Target::parse(&Secret::new(url), Duration::from_secs(2))
    }

    #[test]
    fn every_sslmode_of_libpq_is_read() {
        let table = [
            ("", SslMode::Prefer, true),
            ("?sslmode=disable", SslMode::Disable, false),
            ("?sslmode=allow", SslMode::Allow, true),
            ("?sslmode=prefer", SslMode::Prefer, true),
            ("?sslmode=require", SslMode::Require, false),
            ("?sslmode=require&sslrootcert=%2Fca.pem", SslMode::VerifyCa, false),
            (
                "?connect_timeout=3&sslmode=verify-ca&sslsni=1",
                SslMode::VerifyCa,
                false,
            ),
            (
                "?sslmode=verify-full&sslrootcert=/ca.pem",
                SslMode::VerifyFull,
                false,
            ),
            ("?sslrootcert=system", SslMode::VerifyFull, false),
        ];
        for (query, expected, falls_back) in table {
            let target = parse(&format!("postgresql://u:p@db.example:5433/edge{query}")).unwrap();
            assert_eq!(target.mode, expected, "{query}");
            assert_eq!(target.attempts().1.is_some(), falls_back, "{query}");
        }
        let unix = parse("postgres://u@%2Frun%2Fpostgresql/edge?sslmode=verify-full").unwrap();
        assert_eq!(unix.mode, SslMode::Disable);
    }

    #[test]
    fn no_error_and_no_debug_shows_the_password() {
        let urls = [
            "mysql://u:very-secret@db/edge",
            "postgres://u:very-secret@db/edge?sslmode=maybe",
            "postgres://u:very-secret@db/edge?sslmode=require&sslrootcert=system",
            "postgres://u:very-secret@db:99999999/edge",
            "postgres://u:very-secret@db/edge?nonsense=1",
            "postgres://u:very-secret@db/edge?sslcert=x",
        ];
        for url in urls {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("very-secret"), "{error}");
        }
        let target = parse("postgres://u:very-secret@db/edge").unwrap();
        assert!(!format!("{target:?}").contains("very-secret"));
        assert!(!format!("{:?}", target.config).contains("very-secret"));
        assert_eq!(target.redacted("no very-secret here"), "no [redacted] here");
    }
}
