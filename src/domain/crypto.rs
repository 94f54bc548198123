//! Seals provider keys at rest with AES-256-GCM.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Secret;

const PREFIX: &str = "enc:v1:";
const NONCE_BYTES: usize = 12;

/// Seals and opens secrets with one key, or passes them through when no key is configured.
#[derive(Clone)]
pub struct Sealer {
    cipher: Option<Aes256Gcm>,
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
    /// The value was sealed with another key, or is damaged.
    #[error("the stored key cannot be decrypted with the configured `encryption.key`")]
    WrongKey,
    /// The system gave no randomness.
    #[error("the system's random source failed")]
    NoRandomness,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Sealer({})",
            if self.cipher.is_some() { "key" } else { "no key" }
        )
    }
}

impl Sealer {
    /// Without a key: secrets are stored as they are.
    pub fn plain() -> Self {
        Self { cipher: None }
    }

    /// With a key in base64.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn with_key(base64_key: &Secret) -> Result<Self, SealError> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(base64_key.expose().trim())
                .map_err(|_| SealError::BadKey)?,
        );
        if bytes.len() != 32 {
            return Err(SealError::BadKey);
        }
        Ok(Self {
            cipher: Some(Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(&bytes))),
        })
    }

    /// Whether a key is configured.
    pub fn has_key(&self) -> bool {
        self.cipher.is_some()
    }

    /// The form to store: `enc:v1:` + base64(nonce + ciphertext), or the secret itself without a key.
    pub fn seal(&self, secret: &Secret) -> Result<Secret, SealError> {
        let Some(cipher) = &self.cipher else {
            return Ok(secret.clone());
        };
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let sealed = cipher
            .encrypt(Nonce::from_slice(&nonce), secret.expose().as_bytes())
            .map_err(|_| SealError::WrongKey)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Secret::new(format!("{PREFIX}{}", STANDARD.encode(bytes))))
    }

    /// The secret behind a stored form; unsealed values are read as they are.
    pub fn open(&self, stored: &Secret) -> Result<Secret, SealError> {
        let Some(encoded) = stored.expose().strip_prefix(PREFIX) else {
            return Ok(stored.clone());
        };
        let cipher = self.cipher.as_ref().ok_or(SealError::NoKey)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SealError::WrongKey)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::WrongKey)?;
        let plain = Zeroizing::new(
            cipher
                .decrypt(Nonce::from_slice(nonce), sealed)
                .map_err(|_| SealError::WrongKey)?,
        );
        let text = std::str::from_utf8(&plain).map_err(|_| SealError::WrongKey)?;
        Ok(Secret::new(text))
    }
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
