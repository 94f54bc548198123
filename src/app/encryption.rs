//! Seals the provider keys of projects that lie in the store, with a server running or not.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::wiring::{sealed_keys, sealer};
use crate::config::Settings;
use crate::domain::crypto::Standing;

/// Keys read at once.
const STEP: u32 = 200;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// Count, and change nothing.
    Look,
    /// Seal what is not sealed.
    Bare,
    /// Seal everything with the key that seals now.
    All,
}

/// How the provider keys stood before, and what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealingReport {
    /// How many keys stood how.
    pub found: BTreeMap<Standing, u64>,
    /// How many are sealed with the current key now that were not before.
    pub sealed: u64,
    /// How many were changed by somebody else meanwhile, and are sealed as that one does.
    pub overtaken: u64,
}

impl SealingReport {
    /// How many keys cannot be opened with any configured key.
    pub fn unreadable(&self) -> u64 {
        self.found
            .iter()
            .filter(|(standing, _)| matches!(standing, Standing::Unreadable(_)))
            .map(|(_, count)| count)
            .sum()
    }
}

/// Goes through every provider key. Each is replaced by itself and only if nobody changed it meanwhile, so it can be
/// ended at any point and begun again.
pub fn seal_at_rest(settings: &Settings, sealing: Sealing) -> Result<SealingReport> {
    let sealer = sealer(settings)?;
    if sealing != Sealing::Look && !sealer.has_key() {
        bail!("no `encryption.key` is configured; make one with `openssl rand -base64 32`");
    }
    let runtime = super::runtime::control()?;
    let keys = sealed_keys(settings, runtime.handle())?;
    runtime.block_on(async {
        let mut report = SealingReport::default();
        let mut last = None;
        loop {
            let step = keys.after(last.as_ref(), STEP).await?;
            for key in &step {
                let standing = sealer.standing(&key.sealed);
                let wanted = match &standing {
                    Standing::Plain => sealing != Sealing::Look,
                    Standing::Older(_) => sealing == Sealing::All,
                    Standing::Current | Standing::Unreadable(_) => false,
                };
                *report.found.entry(standing).or_default() += 1;
                if wanted {
                    let sealed = sealer.seal(&sealer.open(&key.sealed)?)?;
                    if keys.replace(key, &sealed).await? {
                        report.sealed += 1;
                    } else {
                        report.overtaken += 1;
                    }
                }
            }
            let Some(end) = step.into_iter().next_back() else {
                return Ok(report);
            };
            last = Some(end);
        }
    })
}
