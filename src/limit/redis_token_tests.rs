//! Tokens a minute in a private Redis: shared, corrected, and owed while it is away.

use std::num::NonZeroU64;

use super::*;
use crate::domain::{Limits, NanoUsd};
use crate::limit::{Spent, Subject, TokensThought};

/// A request with a thousand tokens a minute that is thought to use so many.
fn thousand_tokens(prompt: u64) -> Subject {
    Subject {
        token_limits: Limits {
            tpm: NonZeroU64::new(1000),
            ..Limits::default()
        },
        tokens: TokensThought {
            prompt,
            completion: Some(0),
        },
        ..subject()
    }
}

fn spent(tokens: u64) -> Spent {
    Spent {
        token_id: subject().token_id,
        project_id: subject().project_id,
        cost: NanoUsd::ZERO,
        tokens,
        completion_tokens: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_are_shared_and_corrected_in_redis() {
    let server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    both_know(&one, &two).await;
    let remaining = async |instance: &Instance, prompt| {
        let taken = instance
            .limiter
            .reserve(thousand_tokens(prompt), Claim::nothing())
            .await;
        taken.map(|reservation| {
            let standing = reservation.standings().tokens.unwrap();
            (reservation, standing.remaining)
        })
    };
    let (mut first, left) = remaining(&one, 600).await.unwrap();
    assert_eq!(left, 400);
    let refused = remaining(&two, 500).await.unwrap_err();
    assert!(refused.denial.retry_after.unwrap() > Duration::from_secs(5));
    // it used less, and then another far more
    one.limiter.charge(Some(&mut first), &spent(100));
    let fits = async {
        loop {
            if let Ok(taken) = remaining(&two, 890).await {
                break taken.0;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut second = tokio::time::timeout(Duration::from_secs(10), fits)
        .await
        .expect("given back");
    two.limiter.charge(Some(&mut second), &spent(3000));
    let owing = async {
        loop {
            let refused = remaining(&one, 1)
                .await
                .err()
                .and_then(|refused| refused.denial.retry_after);
            if refused.is_some_and(|wait| wait > Duration::from_secs(100)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), owing)
        .await
        .expect("charged");
    assert!(one.rates.is_answering() && two.rates.is_answering());
}

#[tokio::test]
async fn tokens_that_redis_could_not_be_told_of_are_charged_when_it_is_back() {
    let mut server = Server::start();
    let one = instance(&server, |_| ()).await;
    let mut taken = one
        .limiter
        .reserve(thousand_tokens(1), Claim::nothing())
        .await
        .unwrap();
    server.stop();
    one.limiter.charge(Some(&mut taken), &spent(900));
    until(|| !one.rates.is_answering()).await;
    server.start_again();
    let back = async {
        loop {
            let next = one
                .limiter
                .reserve(thousand_tokens(1), Claim::nothing())
                .await
                .unwrap();
            let left = next.standings().tokens.unwrap().remaining;
            if one.rates.is_answering() {
                break left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let left = tokio::time::timeout(Duration::from_secs(20), back)
        .await
        .expect("redis is used again");
    assert!(
        left <= 300,
        "{left} are left of a thousand, 900 of which were used seconds ago"
    );
}
