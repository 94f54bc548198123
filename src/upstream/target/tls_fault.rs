//! What was wrong with a TLS handshake, told from what the implementation says.

/// What was wrong with a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate is of no authority that is trusted here.
    Untrusted,
    /// The certificate is not valid now.
    Expired,
    /// The certificate is for other names.
    OtherName,
    /// What answers does not speak TLS.
    NotTls,
    /// Anything else.
    Handshake,
}

impl TlsFault {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "its certificate is of no authority that is trusted here",
            Self::Expired => "its certificate has expired or is not valid yet",
            Self::OtherName => "its certificate is for another name",
            Self::NotTls => "what answers there does not speak TLS",
            Self::Handshake => "the handshake failed",
        }
    }

    /// From what the TLS implementation said.
    pub(super) fn of(said: &str) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&["UnknownIssuer", "UnknownCA", "BadSignature", "CaUsedAsEndEntity"]) {
            Self::Untrusted
        } else if says(&["Expired", "NotValidYet", "expired", "not valid yet"]) {
            Self::Expired
        } else if says(&["NotValidForName", "not valid for name"]) {
            Self::OtherName
        } else if says(&["InvalidContentType", "InvalidMessage", "corrupt message"]) {
            Self::NotTls
        } else {
            Self::Handshake
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_faults_are_told_apart_by_what_the_implementation_says() {
        for (said, fault) in [
            (
                "TLSHandshakeFailure invalid peer certificate: UnknownIssuer",
                TlsFault::Untrusted,
            ),
            (
                "invalid peer certificate: certificate expired: verification time 1",
                TlsFault::Expired,
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"",
                TlsFault::OtherName,
            ),
            (
                "received corrupt message of type InvalidContentType",
                TlsFault::NotTls,
            ),
            ("received fatal alert: ProtocolVersion", TlsFault::Handshake),
        ] {
            assert_eq!(TlsFault::of(said), fault, "{said}");
        }
    }
}
