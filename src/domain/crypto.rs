//! Seals provider keys at rest with AES-256-GCM.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Secret;

/// Sealed with the key that has no id.
const PREFIX: &str = "enc:v1:";
/// Sealed with a key of a list; its id and a colon follow.
const PREFIX_WITH_ID: &str = "enc:v2:";
const NONCE_BYTES: usize = 12;

/// Seals secrets with the first of its keys and opens them with any, or passes them through when it has none.
#[derive(Clone)]
pub struct Sealer {
    keys: Vec<SealingKey>,
}

#[derive(Clone)]
struct SealingKey {
    id: Option<Box<str>>,
    cipher: Aes256Gcm,
}

/// How a stored secret stands to the keys of a [`Sealer`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is not sealed.
    Plain,
    /// Sealed with the key that seals now.
    Current,
    /// Sealed with another key that is configured; its id, if it has one.
    Older(Option<String>),
    /// It cannot be opened; the id of the key that is not configured, if the value names one.
    Unreadable(Option<String>),
}

/// Why a stored secret could not be opened, or a key not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The configured key is not base64 of 32 bytes.
    #[error("the encryption key is not base64 of exactly 32 bytes; make one with `openssl rand -base64 32`")]
    BadKey,
    /// The value is sealed and no key is configured.
    #[error("the stored key is encrypted and no `encryption.key` is configured")]
    NoKey,
    /// The value names a key that is not configured.
    #[error("the stored key is encrypted with a key whose id is not among `encryption.keys`")]
    UnknownKeyId,
    /// The value was sealed with another key, or is damaged.
    #[error("the stored key cannot be decrypted with the configured `encryption.key`")]
    WrongKey,
    /// The system gave no randomness.
    #[error("the system's random source failed")]
    NoRandomness,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

impl Sealer {
    /// Without a key: secrets are stored as they are.
    pub fn plain() -> Self {
        Self { keys: Vec::new() }
    }

    /// With one key in base64.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn with_key(base64_key: &Secret) -> Result<Self, SealError> {
        Self::with_keys(&[], Some(base64_key))
    }

    /// With keys that have ids, of which the first seals, and one without, which seals when it is alone.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn with_keys(named: &[(String, Secret)], unnamed: Option<&Secret>) -> Result<Self, SealError> {
        let named = named.iter().map(|(id, key)| (Some(id.as_str()), key));
        let keys = named.chain(unnamed.map(|key| (None, key)));
        Ok(Self {
            keys: keys
                .map(|(id, key)| {
                    Ok(SealingKey {
                        id: id.map(Into::into),
                        cipher: cipher(key)?,
                    })
                })
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether a key is configured.
    pub fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The form to store: `enc:v1:` or `enc:v2:` and the key's id, then base64(nonce + ciphertext); the secret itself
    /// without a key.
    pub fn seal(&self, secret: &Secret) -> Result<Secret, SealError> {
        let Some(key) = self.keys.first() else {
            return Ok(secret.clone());
        };
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let payload = Payload {
            msg: secret.expose().as_bytes(),
            aad: key.id.as_deref().unwrap_or_default().as_bytes(),
        };
        let sealed = key
            .cipher
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| SealError::WrongKey)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        let encoded = STANDARD.encode(bytes);
        Ok(Secret::new(match &key.id {
            None => format!("{PREFIX}{encoded}"),
            Some(id) => format!("{PREFIX_WITH_ID}{id}:{encoded}"),
        }))
    }

    /// The secret behind a stored form; unsealed values are read as they are.
    pub fn open(&self, stored: &Secret) -> Result<Secret, SealError> {
        match form(stored.expose()) {
            Form::Plain => Ok(stored.clone()),
            Form::Sealed { .. } if self.keys.is_empty() => Err(SealError::NoKey),
            Form::Sealed { id: None, encoded } => {
                // a key may have got its id after this was sealed
                let opened = self.keys.iter().rev().find_map(|key| key.open(encoded, "").ok());
                opened.ok_or(SealError::WrongKey)
            }
            Form::Sealed {
                id: Some(id),
                encoded,
            } => self
                .keys
                .iter()
                .find(|key| key.id.as_deref() == Some(id))
                .ok_or(SealError::UnknownKeyId)?
                .open(encoded, id),
        }
    }

    /// How a stored form stands to the keys.
    pub fn standing(&self, stored: &Secret) -> Standing {
        let Form::Sealed { id, .. } = form(stored.expose()) else {
            return Standing::Plain;
        };
        let id = id.map(str::to_owned);
        if self.open(stored).is_err() {
            return Standing::Unreadable(id);
        }
        match self.keys.first() {
            Some(current) if current.id.as_deref() == id.as_deref() => Standing::Current,
            _ => Standing::Older(id),
        }
    }
}

impl SealingKey {
    fn open(&self, encoded: &str, id: &str) -> Result<Secret, SealError> {
        let bytes = STANDARD.decode(encoded).map_err(|_| SealError::WrongKey)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::WrongKey)?;
        let payload = Payload {
            msg: sealed,
            aad: id.as_bytes(),
        };
        let plain = Zeroizing::new(
            self.cipher
                .decrypt(Nonce::from_slice(nonce), payload)
                .map_err(|_| SealError::WrongKey)?,
        );
        let text = std::str::from_utf8(&plain).map_err(|_| SealError::WrongKey)?;
        Ok(Secret::new(text))
    }
}

enum Form<'a> {
    Plain,
    Sealed { id: Option<&'a str>, encoded: &'a str },
}

fn form(stored: &str) -> Form<'_> {
    if let Some(encoded) = stored.strip_prefix(PREFIX) {
        return Form::Sealed { id: None, encoded };
    }
    match stored
        .strip_prefix(PREFIX_WITH_ID)
        .and_then(|rest| rest.split_once(':'))
    {
        Some((id, encoded)) => Form::Sealed {
            id: Some(id),
            encoded,
        },
        None => Form::Plain,
    }
}

fn cipher(base64_key: &Secret) -> Result<Aes256Gcm, SealError> {
    let bytes = Zeroizing::new(
        STANDARD
            .decode(base64_key.expose().trim())
            .map_err(|_| SealError::BadKey)?,
    );
    if bytes.len() != 32 {
        return Err(SealError::BadKey);
    }
    Ok(Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(&bytes)))
}

/// Random bytes from the system.
///
/// # Errors
/// [`SealError::NoRandomness`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(fill: u8) -> Sealer {
        Sealer::with_key(&Secret::new(STANDARD.encode([fill; 32]))).unwrap()
    }

    #[test]
    fn a_sealed_key_opens_with_its_key_alone() {
        let sealed = sealer(1).seal(&Secret::new("sk-provider")).unwrap();
        assert!(sealed.expose().starts_with("enc:v1:"));
        assert_eq!(sealer(1).open(&sealed).unwrap().expose(), "sk-provider");
        assert_eq!(sealer(2).open(&sealed), Err(SealError::WrongKey));
        assert_eq!(Sealer::plain().open(&sealed), Err(SealError::NoKey));
        assert_eq!(
            sealer(1).open(&Secret::new("enc:v1:AAAA")),
            Err(SealError::WrongKey)
        );
    }

    fn key(fill: u8) -> Secret {
        Secret::new(STANDARD.encode([fill; 32]))
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let old = sealer(1).seal(&Secret::new("sk-old")).unwrap();
        let named = [("b".to_owned(), key(2)), ("a".to_owned(), key(3))];
        let rotating = Sealer::with_keys(&named, Some(&key(1))).unwrap();
        let new = rotating.seal(&Secret::new("sk-new")).unwrap();
        assert!(new.expose().starts_with("enc:v2:b:"), "{}", new.expose());
        assert_eq!(rotating.open(&old).unwrap().expose(), "sk-old");
        assert_eq!(rotating.open(&new).unwrap().expose(), "sk-new");
        assert_eq!(rotating.standing(&old), Standing::Older(None));
        assert_eq!(rotating.standing(&new), Standing::Current);
        assert_eq!(rotating.standing(&Secret::new("sk-bare")), Standing::Plain);

        let later = Sealer::with_keys(&named[..1], None).unwrap();
        assert_eq!(later.open(&new).unwrap().expose(), "sk-new");
        assert_eq!(later.open(&old), Err(SealError::WrongKey));
        assert_eq!(later.standing(&old), Standing::Unreadable(None));
        let other = Sealer::with_keys(&named[1..], None).unwrap();
        assert_eq!(other.open(&new), Err(SealError::UnknownKeyId));
        let moved = Secret::new(new.expose().replace(":b:", ":a:"));
        assert_eq!(rotating.open(&moved), Err(SealError::WrongKey));
        let renamed = Sealer::with_keys(&[("x".to_owned(), key(1))], None).unwrap();
        assert_eq!(renamed.open(&old).unwrap().expose(), "sk-old");
    }

    #[test]
    fn without_a_key_secrets_pass_through_and_stay_readable_later() {
        let stored = Sealer::plain().seal(&Secret::new("sk-provider")).unwrap();
        assert_eq!(sealer(1).open(&stored).unwrap().expose(), "sk-provider");
    }

    #[test]
    fn a_bad_key_is_refused() {
        for key in ["", "abc", "AAAA", "not base64!"] {
            assert_eq!(
                Sealer::with_key(&Secret::new(key)).unwrap_err(),
                SealError::BadKey
            );
        }
    }
}
