//! Which failure of an attempt may be tried again, and where.

use crate::domain::{Denial, DenialCode};

/// Why no connection was made.
pub use super::target::ConnectFailure;

/// How an attempt failed before any byte of an answer was shown to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection; nothing was sent.
    Connect(ConnectFailure),
    /// The connection ended or was reset before the first byte of an answer: the provider may or may not have
    /// taken the request.
    ClosedBeforeHead {
        /// Whether the connection had served other requests before.
        reused: bool,
    },
    /// No head in time.
    FirstByteTimeout,
    /// What came is no HTTP answer, or a broken one.
    Protocol,
    /// The provider answered with this status.
    Status(u16),
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same target once more, over a new connection.
    SameTarget,
    /// The next target.
    NextTarget,
    /// Nothing: the failure, or the provider's own answer, is the answer.
    GiveUp,
}

/// What the forwarding loop knows when it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Whether the body can be sent again: it is held, or none of it has left.
    pub body_can_be_repeated: bool,
    /// Whether another target is left.
    pub another_target: bool,
    /// Whether the path is an inference path; others may have changed something at the provider.
    pub inference: bool,
}

/// What is left of `router.retries` for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    left: u32,
    reused_connection_retried: bool,
}

impl RetryBudget {
    /// A request that may make `retries` further attempts.
    pub fn new(retries: u32) -> Self {
        Self {
            left: retries,
            reused_connection_retried: false,
        }
    }

    /// Decides what follows a failure, and takes the further attempt from the budget.
    pub fn after(&mut self, failure: &AttemptFailure, situation: Situation) -> Next {
        let next = self.decide(failure, situation);
        if next != Next::GiveUp {
            self.left -= 1;
        }
        if next == Next::SameTarget {
            self.reused_connection_retried = true;
        }
        next
    }

    fn decide(self, failure: &AttemptFailure, situation: Situation) -> Next {
        if self.left == 0 || !situation.body_can_be_repeated {
            return Next::GiveUp;
        }
        let onward = if situation.another_target {
            Next::NextTarget
        } else {
            Next::GiveUp
        };
        match failure {
            AttemptFailure::Connect(_) => onward,
            AttemptFailure::Status(status) if may_retry_status(*status) => onward,
            // A provider closes idle connections when it likes: that the request met such a moment says
            // nothing about the target.
            AttemptFailure::ClosedBeforeHead { reused: true } if !self.reused_connection_retried => {
                if situation.inference && situation.another_target {
                    Next::NextTarget
                } else {
                    Next::SameTarget
                }
            }
            AttemptFailure::ClosedBeforeHead { .. } if situation.inference => onward,
            AttemptFailure::ClosedBeforeHead { .. }
            | AttemptFailure::FirstByteTimeout
            | AttemptFailure::Protocol
            | AttemptFailure::Status(_) => Next::GiveUp,
        }
    }
}

/// Whether another target may answer better.
pub fn may_retry_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 529)
}

impl AttemptFailure {
    /// A word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(failure) => failure.as_str(),
            Self::ClosedBeforeHead { .. } => "closed_before_head",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Protocol => "protocol",
            Self::Status(_) => "status",
        }
    }

    /// Whether it speaks against the target, for its breaker.
    pub fn counts_against_target(&self) -> bool {
        match self {
            Self::Connect(_) | Self::FirstByteTimeout | Self::Protocol => true,
            Self::ClosedBeforeHead { reused } => !reused,
            Self::Status(status) => matches!(status, 500 | 502 | 503 | 504 | 529),
        }
    }

    /// Whether some of the request may have reached the provider.
    pub fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::ClosedBeforeHead { .. } | Self::FirstByteTimeout | Self::Protocol
        )
    }

    /// The refusal that the client gets when it is the last word. A status is the provider's own answer, and
    /// passes through instead.
    pub fn denial(&self, provider: &str) -> Denial {
        match self {
            Self::Connect(failure) => failure.denial(provider),
            Self::ClosedBeforeHead { .. } => Denial::new(
                DenialCode::UpstreamProtocolError,
                format!("upstream `{provider}` closed the connection without an answer"),
            ),
            Self::FirstByteTimeout => Denial::new(
                DenialCode::FirstByteTimeout,
                format!("upstream `{provider}` sent no answer within its `timeouts.response_header`"),
            ),
            Self::Protocol => Denial::new(
                DenialCode::UpstreamProtocolError,
                format!("upstream `{provider}` sent something that is no valid HTTP answer"),
            ),
            Self::Status(status) => Denial::new(
                DenialCode::UpstreamProtocolError,
                format!("upstream `{provider}` answered {status}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Situation = Situation {
        body_can_be_repeated: true,
        another_target: true,
        inference: true,
    };
    const ALONE: Situation = Situation {
        another_target: false,
        ..HELD
    };

    #[test]
    fn each_failure_has_its_next_step() {
        let stateful_alone = Situation {
            inference: false,
            ..ALONE
        };
        let half_sent = Situation {
            body_can_be_repeated: false,
            ..HELD
        };
        let refused = || AttemptFailure::Connect(ConnectFailure::Refused);
        let closed = |reused| AttemptFailure::ClosedBeforeHead { reused };
        let table = [
            (refused(), HELD, Next::NextTarget),
            (refused(), ALONE, Next::GiveUp),
            (refused(), half_sent, Next::GiveUp),
            (closed(true), ALONE, Next::SameTarget),
            (closed(true), HELD, Next::NextTarget),
            (closed(true), stateful_alone, Next::SameTarget),
            (closed(false), HELD, Next::NextTarget),
            (closed(false), ALONE, Next::GiveUp),
            (
                closed(false),
                Situation {
                    inference: false,
                    ..HELD
                },
                Next::GiveUp,
            ),
            (AttemptFailure::FirstByteTimeout, HELD, Next::GiveUp),
            (AttemptFailure::Protocol, HELD, Next::GiveUp),
            (AttemptFailure::Status(529), HELD, Next::NextTarget),
            (AttemptFailure::Status(529), ALONE, Next::GiveUp),
            (AttemptFailure::Status(400), HELD, Next::GiveUp),
        ];
        for (failure, situation, next) in table {
            let mut budget = RetryBudget::new(2);
            assert_eq!(
                budget.after(&failure, situation),
                next,
                "{failure:?} {situation:?}"
            );
        }
    }

    #[test]
    fn a_closed_reused_connection_is_tried_once_more_only() {
        let mut budget = RetryBudget::new(5);
        let failure = AttemptFailure::ClosedBeforeHead { reused: true };
        assert_eq!(budget.after(&failure, ALONE), Next::SameTarget);
        assert_eq!(budget.after(&failure, ALONE), Next::GiveUp);
    }

    #[test]
    fn further_attempts_are_counted_over_all_failures() {
        let mut budget = RetryBudget::new(2);
        let failure = AttemptFailure::Connect(ConnectFailure::Timeout);
        let steps: Vec<Next> = (0..3).map(|_| budget.after(&failure, HELD)).collect();
        assert_eq!(steps, [Next::NextTarget, Next::NextTarget, Next::GiveUp]);
        assert_eq!(RetryBudget::new(0).after(&failure, HELD), Next::GiveUp);
    }
}
