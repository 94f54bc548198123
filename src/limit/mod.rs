//! May they, now: rates, concurrency and quota.
