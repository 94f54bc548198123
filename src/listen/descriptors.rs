//! The process' limit on open files, and how many connections it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for the store, logs, listeners and the reserved places.
const KEPT_BACK: u64 = 256;

/// Raises the soft limit on open files to the hard one; answers what holds now.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!(error:% = error; "the limit on open files could not be raised");
        }
    }
    soft_limit()
}

/// The soft limit on open files; `u64::MAX` when there is none.
pub fn soft_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Connections that `descriptors` open files allow: each may need a second one for its provider.
pub fn connections_for(descriptors: u64) -> usize {
    let pairs = descriptors.saturating_sub(KEPT_BACK) / 2;
    usize::try_from(pairs).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_counts_twice_and_256_stay_free() {
        assert_eq!(connections_for(1024), 384);
        assert_eq!(connections_for(100), 1);
    }

    #[test]
    fn the_soft_limit_can_be_raised_to_the_hard_one() {
        let raised = raise_limit();
        assert_eq!(raised, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}
