//! Which failure of an attempt may be tried again, where, and after which pause.

use std::time::Duration;

use super::keys::KeyFault;
use crate::config::{RetryAmbiguous, RouterSettings};
use crate::domain::{Denial, DenialCode};

/// Why no connection was made.
pub use super::target::ConnectFailure;

/// How an attempt failed before any byte of an answer was shown to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection; nothing was sent.
    Connect(ConnectFailure),
    /// No place at the provider within `router.max_wait`, or its queue is full; nothing was sent.
    NoPlace,
    /// The rate of the key would have let it go after `router.max_wait` only; nothing was sent.
    NoPace,
    /// The connection ended or was reset before the first byte of an answer: the provider may or may not have
    /// taken the request.
    ClosedBeforeHead {
        /// Whether the connection had served other requests before.
        reused: bool,
    },
    /// No head in time.
    FirstByteTimeout,
    /// The head came, and then nothing for `server.stream_idle_timeout`.
    Silent,
    /// No words within `models.*.timeouts.first_token`.
    FirstTokenTimeout,
    /// What came is no HTTP answer, or a broken one.
    Protocol,
    /// The answer broke off before it had said anything.
    BrokenOff(String),
    /// An answer that says it is good, and holds an error or no answer of an API.
    NoAnswer(&'static str),
    /// The provider answered with this status.
    Status(u16),
    /// The provider answered with this status, about our key.
    Key(u16, KeyFault),
    /// The prompt is too long for the model.
    TooLong(u16),
}

/// How far a request may go after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere: the failure, or the provider's own answer, is the answer.
    Nowhere,
    /// To a target, or with a key, that has not failed it.
    Onward,
    /// To a model that reads longer prompts.
    Larger,
    /// The same, and when there is none to one that has, after a pause.
    Around,
    /// The same, and when there is none at once to the same target, over a new connection.
    AtOnce,
}

/// What the forwarding loop knows when it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Whether the body can be sent again: it is held, or none of it has left.
    pub body_can_be_repeated: bool,
    /// Whether the path is an inference path; others may have changed something at the provider.
    pub inference: bool,
}

/// What is left of `router.retries` and `router.max_wait` for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    left: u32,
    /// Pauses made.
    pauses: u32,
    wait_left: Duration,
    base: Duration,
    longest: Duration,
    ambiguous: RetryAmbiguous,
    reused_connection_retried: bool,
}

impl Retries {
    /// For a request whose client has tried it `client_retries` times before: those count as attempts too.
    pub fn new(settings: &RouterSettings, client_retries: u32) -> Self {
        Self {
            left: settings.retries.saturating_sub(client_retries),
            pauses: 0,
            wait_left: settings.max_wait,
            base: settings.retry_base_delay,
            longest: settings.retry_max_delay,
            ambiguous: settings.retry_ambiguous,
            reused_connection_retried: false,
        }
    }

    /// Whether any further attempt may follow.
    pub fn are_left(&self) -> bool {
        self.left > 0
    }

    /// How far the request may go after this failure.
    pub fn reach(&self, failure: &AttemptFailure, situation: Situation) -> Reach {
        if failure.is_no_attempt() {
            return Reach::Onward;
        }
        if self.left == 0 || !situation.body_can_be_repeated {
            return Reach::Nowhere;
        }
        let ambiguous = |reach| match (situation.inference, self.ambiguous) {
            (false, _) | (_, RetryAmbiguous::Never) => Reach::Nowhere,
            (true, RetryAmbiguous::Auto) => reach,
            (true, RetryAmbiguous::Always) => Reach::Around,
        };
        match failure {
            AttemptFailure::Status(status) if !may_retry_status(*status) => Reach::Nowhere,
            AttemptFailure::Connect(_)
            | AttemptFailure::Status(_)
            | AttemptFailure::Key(_, KeyFault::RateLimited) => Reach::Around,
            AttemptFailure::NoPlace | AttemptFailure::NoPace | AttemptFailure::Key(..) => Reach::Onward,
            AttemptFailure::TooLong(_) => Reach::Larger,
            // A provider closes idle connections when it likes: that the request met such a moment says
            // nothing about the target.
            AttemptFailure::ClosedBeforeHead { reused: true }
                if !self.reused_connection_retried && self.ambiguous != RetryAmbiguous::Never =>
            {
                Reach::AtOnce
            }
            AttemptFailure::ClosedBeforeHead { .. } => ambiguous(Reach::Onward),
            AttemptFailure::FirstByteTimeout | AttemptFailure::Silent => ambiguous(Reach::Nowhere),
            AttemptFailure::FirstTokenTimeout
            | AttemptFailure::Protocol
            | AttemptFailure::BrokenOff(_)
            | AttemptFailure::NoAnswer(_) => {
                if situation.inference {
                    Reach::Onward
                } else {
                    Reach::Nowhere
                }
            }
        }
    }

    /// A further attempt is made.
    pub fn attempt(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// The same target is asked once more at once.
    pub fn reused_connection_retried(&mut self) {
        self.reused_connection_retried = true;
    }

    /// The pause before targets that have failed are tried again: doubled each time, shortened by up to a half at
    /// random (`chance`: any number).
    pub fn pause(&mut self, chance: u32) -> Duration {
        let doubled = self.base.saturating_mul(1 << self.pauses.min(20));
        self.pauses = self.pauses.saturating_add(1);
        let whole = doubled.min(self.longest);
        let shorter = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX / 4);
        let shorter = u128::from(shorter) * u128::from(chance) / u128::from(u32::MAX);
        whole.saturating_sub(Duration::from_nanos(u64::try_from(shorter).unwrap_or(0)))
    }

    /// The longest pause between attempts.
    pub fn longest_pause(&self) -> Duration {
        self.longest
    }

    /// What is left of `router.max_wait`.
    pub fn wait_left(&self) -> Duration {
        self.wait_left
    }

    /// So long was waited.
    pub fn waited(&mut self, time: Duration) {
        self.wait_left = self.wait_left.saturating_sub(time);
    }
}

/// Whether another try may be answered better.
pub fn may_retry_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 529)
}

impl AttemptFailure {
    /// A word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(failure) => failure.as_str(),
            Self::NoPlace => "no_place",
            Self::NoPace => "no_pace",
            Self::ClosedBeforeHead { reused: true } => "closed_reused",
            Self::ClosedBeforeHead { reused: false } => "closed_before_head",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Silent => "idle_timeout",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::Protocol => "protocol",
            Self::BrokenOff(_) => "broken_off",
            Self::NoAnswer(what) => what,
            Self::Status(_) => "status",
            Self::Key(_, fault) => match fault {
                KeyFault::Refused => "key_refused",
                KeyFault::Money => "money",
                KeyFault::RateLimited => "rate_limited",
            },
            Self::TooLong(_) => "context_length",
        }
    }

    /// Whether it speaks against the target, for its breaker.
    pub fn counts_against_target(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::FirstByteTimeout
            | Self::Silent
            | Self::FirstTokenTimeout
            | Self::Protocol
            | Self::BrokenOff(_)
            | Self::NoAnswer(_) => true,
            Self::ClosedBeforeHead { reused } => !reused,
            Self::Status(status) => matches!(status, 500 | 502 | 503 | 504 | 529),
            Self::NoPlace | Self::NoPace | Self::Key(..) | Self::TooLong(_) => false,
        }
    }

    /// Nobody was asked: the next target needs no further attempt.
    pub fn is_no_attempt(&self) -> bool {
        matches!(self, Self::NoPlace | Self::NoPace)
    }

    /// Whether the provider may have taken the request though it gave no answer.
    pub fn may_have_cost(&self) -> bool {
        !matches!(
            self,
            Self::Connect(_)
                | Self::NoPlace
                | Self::NoPace
                | Self::Status(_)
                | Self::Key(..)
                | Self::TooLong(_)
        )
    }

    /// The refusal that the client gets when it is the last word. A status is the provider's own answer, and
    /// passes through instead.
    pub fn denial(&self, provider: &str) -> Denial {
        let protocol = |message: String| Denial::new(DenialCode::UpstreamProtocolError, message);
        match self {
            Self::Connect(failure) => failure.denial(provider),
            Self::NoPlace => Denial::new(
                DenialCode::Overloaded,
                format!("upstream `{provider}` has no place free (`max_concurrency`), and too many wait or the wait was too long; try again"),
            )
            .with_retry_after(Duration::from_secs(1)),
            Self::NoPace => Denial::new(
                DenialCode::Overloaded,
                format!("what upstream `{provider}` allows its key a minute is used up for longer than `router.max_wait`; try again"),
            )
            .with_retry_after(Duration::from_secs(5)),
            Self::ClosedBeforeHead { .. } => {
                protocol(format!("upstream `{provider}` closed the connection without an answer"))
            }
            Self::FirstByteTimeout => Denial::new(
                DenialCode::FirstByteTimeout,
                format!("upstream `{provider}` sent no answer within its `timeouts.response_header`"),
            ),
            Self::Silent => Denial::new(
                DenialCode::IdleTimeout,
                format!("upstream `{provider}` was silent for longer than `server.stream_idle_timeout`"),
            ),
            Self::FirstTokenTimeout => Denial::new(
                DenialCode::FirstByteTimeout,
                format!("upstream `{provider}` said nothing within `timeouts.first_token` of its model"),
            ),
            Self::Protocol => protocol(format!(
                "upstream `{provider}` sent something that is no valid HTTP answer"
            )),
            Self::BrokenOff(how) => protocol(format!("upstream `{provider}` broke its answer off: {how}")),
            Self::NoAnswer(_) => protocol(format!(
                "upstream `{provider}` answered with an error that looks like a good answer"
            )),
            Self::Key(_, KeyFault::Refused) => Denial::new(
                DenialCode::UpstreamAuthError,
                format!("Upstream authentication error: provider `{provider}`: it refused the key that was sent"),
            ),
            Self::Status(status) | Self::Key(status, _) | Self::TooLong(status) => {
                protocol(format!("upstream `{provider}` answered {status}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Situation = Situation {
        body_can_be_repeated: true,
        inference: true,
    };

    fn retries(ambiguous: RetryAmbiguous) -> Retries {
        let settings = RouterSettings {
            retry_ambiguous: ambiguous,
            ..RouterSettings::default()
        };
        Retries::new(&settings, 0)
    }

    #[test]
    fn each_failure_has_its_reach() {
        use RetryAmbiguous::{Always, Auto, Never};
        let stateful = Situation {
            inference: false,
            ..HELD
        };
        let half_sent = Situation {
            body_can_be_repeated: false,
            ..HELD
        };
        let refused = || AttemptFailure::Connect(ConnectFailure::Refused);
        let closed = |reused| AttemptFailure::ClosedBeforeHead { reused };
        let table = [
            (refused(), Auto, HELD, Reach::Around),
            (refused(), Auto, stateful, Reach::Around),
            (refused(), Auto, half_sent, Reach::Nowhere),
            (closed(true), Auto, HELD, Reach::AtOnce),
            (closed(true), Auto, stateful, Reach::AtOnce),
            (closed(true), Never, HELD, Reach::Nowhere),
            (closed(false), Auto, HELD, Reach::Onward),
            (closed(false), Auto, stateful, Reach::Nowhere),
            (closed(false), Always, HELD, Reach::Around),
            (closed(false), Always, stateful, Reach::Nowhere),
            (AttemptFailure::FirstByteTimeout, Auto, HELD, Reach::Nowhere),
            (AttemptFailure::FirstByteTimeout, Always, HELD, Reach::Around),
            (AttemptFailure::FirstTokenTimeout, Never, HELD, Reach::Onward),
            (AttemptFailure::Protocol, Auto, HELD, Reach::Onward),
            (
                AttemptFailure::BrokenOff(String::new()),
                Auto,
                stateful,
                Reach::Nowhere,
            ),
            (AttemptFailure::Status(529), Auto, HELD, Reach::Around),
            (AttemptFailure::Status(400), Always, HELD, Reach::Nowhere),
            (AttemptFailure::Status(413), Always, HELD, Reach::Nowhere),
            (
                AttemptFailure::Key(401, KeyFault::Refused),
                Auto,
                HELD,
                Reach::Onward,
            ),
            (
                AttemptFailure::Key(429, KeyFault::Money),
                Auto,
                HELD,
                Reach::Onward,
            ),
            (
                AttemptFailure::Key(429, KeyFault::RateLimited),
                Auto,
                HELD,
                Reach::Around,
            ),
            (AttemptFailure::TooLong(400), Auto, HELD, Reach::Larger),
            (AttemptFailure::NoPlace, Auto, stateful, Reach::Onward),
        ];
        for (failure, ambiguous, situation, reach) in table {
            assert_eq!(
                retries(ambiguous).reach(&failure, situation),
                reach,
                "{failure:?} {ambiguous:?} {situation:?}"
            );
        }
    }

    #[test]
    fn a_closed_reused_connection_is_tried_once_more_only() {
        let mut retries = retries(RetryAmbiguous::Auto);
        let failure = AttemptFailure::ClosedBeforeHead { reused: true };
        assert_eq!(retries.reach(&failure, HELD), Reach::AtOnce);
        retries.reused_connection_retried();
        assert_eq!(retries.reach(&failure, HELD), Reach::Onward);
        let stateful = Situation {
            inference: false,
            ..HELD
        };
        assert_eq!(retries.reach(&failure, stateful), Reach::Nowhere);
    }

    #[test]
    fn further_attempts_are_counted_over_all_failures_and_with_the_clients_own() {
        let failure = AttemptFailure::Connect(ConnectFailure::Timeout);
        for (client_retries, left) in [(0, 2), (1, 1), (2, 0), (9, 0)] {
            let mut retries = Retries::new(&RouterSettings::default(), client_retries);
            for _ in 0..left {
                assert_eq!(retries.reach(&failure, HELD), Reach::Around);
                retries.attempt();
            }
            assert_eq!(retries.reach(&failure, HELD), Reach::Nowhere);
            assert_eq!(
                retries.reach(&AttemptFailure::NoPlace, HELD),
                Reach::Onward,
                "nobody was asked"
            );
            assert!(!retries.are_left());
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_a_half() {
        let millis = |chance| {
            let mut retries = retries(RetryAmbiguous::Auto);
            (0..6)
                .map(|_| retries.pause(chance).as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(millis(0), [500, 1000, 2000, 4000, 8000, 8000]);
        assert_eq!(millis(u32::MAX), [250, 500, 1000, 2000, 4000, 4000]);
    }
}
