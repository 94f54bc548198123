//! Secrets in files that only their owner can read.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine;

use super::Failure;
use crate::domain::Secret;
use crate::domain::crypto::random_bytes;

/// A secret that is made once and kept in a file.
pub fn kept_secret(path: &Path, encoding: &impl Engine) -> Result<Secret, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        _ => {}
    }
    let secret = Secret::new(encoding.encode(random_bytes::<32>()?));
    write_secret(path, &secret)?;
    Ok(secret)
}

/// Writes a secret into its file (0600).
pub fn write_secret(path: &Path, secret: &Secret) -> Result<(), Failure> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failure::Failed(format!("`{}`: {error}", path.display())))?;
    writeln!(file, "{}", secret.expose())?;
    Ok(())
}
