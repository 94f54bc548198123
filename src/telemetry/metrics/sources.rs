//! Numbers that other parts count by themselves.

/// A number that is read when metrics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Client connections open now.
    ConnectionsOpen,
    /// Client connections accepted.
    ConnectionsAccepted,
    /// Client connections refused because too many were open.
    ConnectionsRefused,
    /// Times a connection could not be accepted.
    AcceptErrors,
    /// Request heads refused as malformed.
    HeadsMalformed,
    /// Request heads above a limit.
    HeadsTooLarge,
    /// Request heads that did not come in time.
    HeadsTooSlow,
    /// Requests that ended in a panic.
    Panics,
    /// Access lines that were not written.
    AccessLinesDropped,
    /// Other log lines that were not written.
    LogLinesDropped,
    /// Audit events that were not written.
    AuditEventsDropped,
    /// Token counters waiting for the store.
    UsageUpdatesPending,
    /// Token counters that never reached the store.
    UsageUpdatesLost,
    /// Bytes that the cache holds.
    CacheBytes,
    /// Answers that the cache holds.
    CacheEntries,
    /// Cached answers given up for room.
    CacheEvictions,
    /// Answers that were not kept after all.
    CacheFillsDropped,
    /// Requests that were answered by the call of another one.
    CacheCoalesced,
    /// Usage records in the store.
    LedgerCommitted,
    /// Usage records that went to the spool.
    LedgerSpooled,
    /// Bytes of the spool.
    LedgerSpoolBytes,
    /// Usage records that are lost.
    LedgerLost,
    /// Budgets kept in memory.
    BudgetAccounts,
    /// What running requests have reserved of budgets, in billionths of a dollar.
    BudgetReserved,
    /// Budgets of which 80 percent were spent.
    BudgetsNearlySpent,
    /// Budgets that were spent.
    BudgetsSpent,
    /// Rate buckets kept in memory.
    RateBuckets,
    /// Rate buckets forgotten before they were full.
    RateBucketsForgotten,
    /// Grants that could not be returned.
    GrantsLost,
    /// Credentials kept with whom they belong to.
    KnownTokens,
    /// Credentials remembered as nobody's.
    UnknownTokens,
    /// Reads of the store for a credential.
    TokenReads,
    /// Background tasks alive.
    BackgroundTasks,
}

pub(super) struct Connected {
    pub source: Source,
    pub read: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// How a source is shown.
pub(super) struct Shown {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: &'static str,
    /// `code="…"`, or nothing.
    pub labels: &'static str,
}

impl Source {
    pub(super) fn shown(self) -> Shown {
        const HEADS: &str = "Request heads refused before they became requests.";
        const LINES: &str = "Log lines that were not written because the queue was full.";
        let (name, help, kind, labels) = match self {
            Self::ConnectionsOpen => gauge("connections_open", "Client connections open now."),
            Self::ConnectionsAccepted => {
                counter("connections_accepted_total", "Client connections accepted.")
            }
            Self::ConnectionsRefused => counter(
                "connections_refused_total",
                "Client connections refused because too many were open.",
            ),
            Self::AcceptErrors => counter("accept_errors_total", "Times a connection could not be accepted."),
            Self::HeadsMalformed => (
                "heads_refused_total",
                HEADS,
                "counter",
                "{code=\"malformed_request\"}",
            ),
            Self::HeadsTooLarge => (
                "heads_refused_total",
                HEADS,
                "counter",
                "{code=\"header_too_large\"}",
            ),
            Self::HeadsTooSlow => (
                "heads_refused_total",
                HEADS,
                "counter",
                "{code=\"header_timeout\"}",
            ),
            Self::Panics => counter("panics_total", "Requests that ended in a panic."),
            Self::AccessLinesDropped => ("log_lines_dropped_total", LINES, "counter", "{kind=\"access\"}"),
            Self::LogLinesDropped => ("log_lines_dropped_total", LINES, "counter", "{kind=\"log\"}"),
            Self::AuditEventsDropped => counter(
                "audit_events_dropped_total",
                "Audit events that were not written.",
            ),
            Self::UsageUpdatesPending => {
                gauge("usage_updates_pending", "Token counters waiting for the store.")
            }
            Self::UsageUpdatesLost => counter(
                "usage_updates_lost_total",
                "Token counters that never reached the store.",
            ),
            Self::CacheBytes => gauge("cache_bytes", "Bytes that the cache holds."),
            Self::CacheEntries => gauge("cache_entries", "Answers that the cache holds."),
            Self::CacheEvictions => counter("cache_evictions_total", "Cached answers given up for room."),
            Self::CacheFillsDropped => counter(
                "cache_fills_dropped_total",
                "Answers whose storing had begun and that were not kept: cut, not whole, too large, purged meanwhile.",
            ),
            Self::LedgerCommitted | Self::LedgerSpooled | Self::LedgerSpoolBytes | Self::LedgerLost => {
                self.of_ledger()
            }
            Self::BudgetAccounts
            | Self::BudgetReserved
            | Self::BudgetsNearlySpent
            | Self::BudgetsSpent
            | Self::RateBuckets
            | Self::RateBucketsForgotten
            | Self::GrantsLost => self.of_limits(),
            Self::CacheCoalesced => counter(
                "cache_coalesced_total",
                "Requests answered by the provider call of an identical one that was under way.",
            ),
            Self::KnownTokens => gauge("known_tokens", "Credentials kept in memory."),
            Self::UnknownTokens => gauge("unknown_tokens", "Credentials remembered as nobody's."),
            Self::TokenReads => counter("token_reads_total", "Reads of the store for a credential."),
            Self::BackgroundTasks => gauge("background_tasks", "Background tasks alive."),
        };
        Shown {
            name,
            help,
            kind,
            labels,
        }
    }

    fn of_ledger(self) -> Words {
        match self {
            Self::LedgerCommitted => counter("ledger_records_total", "Usage records in the store."),
            Self::LedgerSpooled => counter(
                "ledger_spooled_total",
                "Usage records that went to the spool because the store was away.",
            ),
            Self::LedgerSpoolBytes => gauge("ledger_spool_bytes", "Bytes of the spool of usage records."),
            Self::LedgerLost => counter(
                "ledger_lost_total",
                "Usage records that are lost: dropped when nothing took them, or unreadable in the spool.",
            ),
            // every other one is shown above
            _ => gauge("", ""),
        }
    }

    fn of_limits(self) -> Words {
        const WARNINGS: &str = "Times a budget was nearly (80) or wholly (100 percent) spent.";
        match self {
            Self::BudgetAccounts => gauge("budget_accounts", "Budgets kept in memory."),
            Self::BudgetReserved => gauge(
                "budget_reserved_nano_usd",
                "What running requests have reserved of budgets, in billionths of a US dollar.",
            ),
            Self::BudgetsNearlySpent => ("budget_warnings_total", WARNINGS, "counter", "{percent=\"80\"}"),
            Self::BudgetsSpent => ("budget_warnings_total", WARNINGS, "counter", "{percent=\"100\"}"),
            Self::RateBuckets => gauge("rate_buckets", "Rates kept in memory."),
            Self::RateBucketsForgotten => counter(
                "rate_buckets_forgotten_total",
                "Rates forgotten at the bound before they were free again.",
            ),
            Self::GrantsLost => counter(
                "grants_lost_total",
                "Grants of requests that reached no provider and could not be returned.",
            ),
            // every other one is shown above
            _ => gauge("", ""),
        }
    }
}

/// Name, help text, kind, labels.
type Words = (&'static str, &'static str, &'static str, &'static str);

const fn gauge(name: &'static str, help: &'static str) -> Words {
    (name, help, "gauge", "")
}

const fn counter(name: &'static str, help: &'static str) -> Words {
    (name, help, "counter", "")
}
