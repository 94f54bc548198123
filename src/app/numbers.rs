//! Metrics that other parts count by themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::build::Common;
use crate::auth::AuthStatistics;
use crate::cache::CacheStats;
use crate::domain::spawn;
use crate::limit::LimitStatistics;
use crate::listen::{Drain, Front, FrontCounters};
use crate::metering::ledger::LedgerStats;
use crate::proxy::EdgeServer;
use crate::telemetry::Logging;
use crate::telemetry::metrics::Source;

/// A number and how it is read.
type Read<T> = (Source, fn(&T) -> u64);

/// Connects each of them.
pub(super) fn connect(
    common: &Common,
    front: &Front<EdgeServer>,
    drain: &Arc<Drain>,
    logging: &Arc<Logging>,
) {
    let metrics = &common.metrics;
    let drain = Arc::clone(drain);
    metrics.connect(Source::ConnectionsOpen, move || drain.connections().open() as u64);
    let of_front: [Read<FrontCounters>; 6] = [
        (Source::ConnectionsAccepted, |counted| {
            counted.connections_accepted.get()
        }),
        (Source::ConnectionsRefused, |counted| {
            counted.connections_refused.get()
        }),
        (Source::AcceptErrors, |counted| counted.accept_errors.get()),
        (Source::HeadsMalformed, |counted| counted.malformed_heads.get()),
        (Source::HeadsTooLarge, |counted| counted.oversized_heads.get()),
        (Source::HeadsTooSlow, |counted| counted.slow_heads.get()),
    ];
    for (source, read) in of_front {
        let counted = Arc::clone(front.counters());
        metrics.connect(source, move || read(&counted));
    }
    let (panics, counted) = (Arc::clone(&common.rooms.panics), Arc::clone(front.counters()));
    metrics.connect(Source::Panics, move || {
        counted.panics.get() + panics.load(Ordering::Relaxed)
    });
    let log = Arc::clone(logging);
    metrics.connect(Source::LogLinesDropped, move || log.lines_lost());
    let log = Arc::clone(logging);
    metrics.connect(Source::AccessLinesDropped, move || log.access_lines_lost());
    let audit = Arc::clone(&common.audit);
    metrics.connect(Source::AuditEventsDropped, move || audit.counts().dropped);
    let counters = Arc::clone(&common.counters);
    metrics.connect(Source::UsageUpdatesPending, move || counters.pending() as u64);
    let counters = Arc::clone(&common.counters);
    metrics.connect(Source::UsageUpdatesLost, move || counters.lost());
    let of_cache: [Read<CacheStats>; 5] = [
        (Source::CacheBytes, |stats| stats.store.bytes),
        (Source::CacheEntries, |stats| stats.store.entries),
        (Source::CacheEvictions, |stats| stats.store.evicted),
        (Source::CacheFillsDropped, |stats| stats.store.dropped),
        (Source::CacheCoalesced, |stats| stats.coalesced),
    ];
    for (source, read) in of_cache {
        let cache = Arc::clone(&common.cache);
        metrics.connect(source, move || read(&cache.stats()));
    }
    let of_ledger: [Read<LedgerStats>; 4] = [
        (Source::LedgerCommitted, |stats| stats.committed),
        (Source::LedgerSpooled, |stats| stats.spooled),
        (Source::LedgerSpoolBytes, |stats| stats.spool_bytes),
        (Source::LedgerLost, |stats| stats.lost),
    ];
    for (source, read) in of_ledger {
        let ledger = Arc::clone(&common.ledger);
        metrics.connect(source, move || read(&ledger.stats()));
    }
    let of_limits: [Read<LimitStatistics>; 7] = [
        (Source::BudgetAccounts, |limits| limits.budgets.accounts as u64),
        (Source::BudgetReserved, |limits| {
            u64::try_from(limits.budgets.reserved.nanos()).unwrap_or(0)
        }),
        (Source::BudgetsNearlySpent, |limits| limits.budgets.warned_80),
        (Source::BudgetsSpent, |limits| limits.budgets.warned_100),
        (Source::RateBuckets, |limits| limits.buckets as u64),
        (Source::RateBucketsForgotten, |limits| limits.buckets_forgotten),
        (Source::GrantsLost, |limits| limits.grants_lost),
    ];
    for (source, read) in of_limits {
        let limiter = Arc::clone(&common.limiter);
        metrics.connect(source, move || read(&limiter.statistics()));
    }
    let of_tokens: [Read<AuthStatistics>; 3] = [
        (Source::KnownTokens, |auth| auth.known_tokens as u64),
        (Source::UnknownTokens, |auth| auth.unknown_tokens as u64),
        (Source::TokenReads, |auth| auth.store_reads),
    ];
    for (source, read) in of_tokens {
        let authenticator = Arc::clone(&common.authenticator);
        metrics.connect(source, move || read(&authenticator.statistics()));
    }
    metrics.connect(Source::BackgroundTasks, || spawn::running() as u64);
}
