//! Tokens a minute: thought, then corrected.

use super::*;

fn of_tokens(subject: Subject, prompt: u64, completion: Option<u64>) -> Subject {
    Subject {
        tokens: TokensThought { prompt, completion },
        ..subject
    }
}

fn tpm(n: u64) -> Limits {
    Limits {
        tpm: NonZeroU64::new(n),
        ..Limits::default()
    }
}

impl Bench {
    fn used(&self, mut reservation: Reservation, subject: Subject, tokens: u64) {
        let spent = Spent {
            token_id: subject.token_id,
            project_id: subject.project_id,
            cost: NanoUsd::ZERO,
            tokens,
            completion_tokens: tokens,
        };
        self.limiter.charge(Some(&mut reservation), &spent);
    }
}

#[tokio::test]
async fn tokens_are_taken_as_thought_and_corrected_by_what_was_used() {
    let bench = Bench::new(|_| {});
    let limited = Subject {
        token_limits: tpm(1000),
        project_limits: tpm(1200),
        ..subject()
    };
    let nothing = Claim::nothing;
    let first = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(500)), nothing())
        .await
        .unwrap();
    let standing = first.standings();
    assert_eq!(standing.requests, None);
    let tokens = standing.tokens.unwrap();
    assert_eq!(
        (tokens.limit, tokens.remaining),
        (1000, 400),
        "the tighter of both"
    );
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(400)), nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.code, DenialCode::RateLimitExceeded);
    assert_eq!(refused.denial.retry_after, Some(Duration::from_secs(6)));
    assert_eq!(refused.standings.tokens.unwrap().remaining, 400);
    bench.used(first, limited, 50);
    let second = bench
        .limiter
        .reserve(of_tokens(limited, 100, Some(400)), nothing())
        .await
        .unwrap();
    // it never left: dropped, it has used nothing
    drop(second);
    let third = bench
        .limiter
        .reserve(of_tokens(limited, 1, Some(0)), nothing())
        .await
        .unwrap();
    assert_eq!(third.standings().tokens.unwrap().remaining, 949);
    bench.used(third, limited, 3000);
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 1, Some(0)), nothing())
        .await
        .unwrap_err();
    assert_eq!(
        refused.denial.retry_after,
        Some(Duration::from_millis(123_060)),
        "2,050 more than there are, and one"
    );
    bench.clock.advance(Duration::from_millis(123_060));
    assert!(
        bench
            .limiter
            .reserve(of_tokens(limited, 1, Some(0)), nothing())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn more_tokens_than_there_are_pass_when_nothing_is_used_and_others_give_theirs_back() {
    let bench = Bench::new(|settings| {
        settings.global = tpm(500);
        settings.per_ip = tpm(5000);
    });
    let limited = Subject {
        token_limits: tpm(100),
        ..subject()
    };
    let nothing = Claim::nothing;
    let whole = of_tokens(limited, 10, Some(4096));
    let held = bench.limiter.reserve(whole, nothing()).await.unwrap();
    assert_eq!(held.standings().tokens.unwrap().remaining, 0);
    bench.used(held, limited, 0);
    // the installation refuses: the token's places are not taken
    let other = somebody_else();
    let held = bench
        .limiter
        .reserve(of_tokens(other, 450, Some(0)), nothing())
        .await
        .unwrap();
    let refused = bench
        .limiter
        .reserve(of_tokens(limited, 80, Some(0)), nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Global));
    bench.used(held, other, 0);
    assert!(
        bench
            .limiter
            .reserve(of_tokens(limited, 100, Some(0)), nothing())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn who_declares_nothing_is_thought_to_use_what_is_usual() {
    let bench = Bench::new(|_| {});
    let limited = Subject {
        token_limits: tpm(10_000),
        ..subject()
    };
    for _ in 0..40 {
        let held = bench
            .limiter
            .reserve(of_tokens(limited, 0, None), Claim::nothing())
            .await
            .unwrap();
        bench.used(held, limited, 800);
        bench.clock.advance(Duration::from_mins(1));
    }
    let held = bench
        .limiter
        .reserve(of_tokens(limited, 100, None), Claim::nothing())
        .await
        .unwrap();
    let remaining = held.standings().tokens.unwrap().remaining;
    assert!((9_100..9_250).contains(&remaining), "{remaining}");
}
