//! What every kind of grants does.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::Poll;

use super::{at, with_token};
use crate::domain::patch::{Change, TokenPatch};
use crate::domain::{TokenHash, TokenId};
use crate::store::{GrantOutcome, Store, UsageDelta};

const CAP: u64 = 20;

async fn count(store: &Store, token: TokenId) -> u64 {
    store.grants.flush().await.unwrap();
    store.tokens.get(token).await.unwrap().unwrap().request_count
}

/// Takes from many tasks at once; answers how many were granted.
async fn take_at_once(store: &Store, token: TokenId, tasks: usize) -> usize {
    let takes = (0..tasks).map(|_| {
        let grants = Arc::clone(&store.grants);
        async move { grants.take(token, CAP).await.unwrap() }
    });
    let outcomes = futures_util::future::join_all(takes).await;
    outcomes
        .into_iter()
        .filter(|outcome| *outcome == GrantOutcome::Granted)
        .count()
}

pub(crate) async fn a_cap_is_exact_however_many_ask_at_once(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    assert_eq!(take_at_once(store, token.id, 60).await, 20);
    assert_eq!(take_at_once(store, token.id, 5).await, 0);
    assert_eq!(count(store, token.id).await, 20);
}

pub(crate) async fn what_is_given_back_may_be_granted_again(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    assert_eq!(take_at_once(store, token.id, 20).await, 20);
    for _ in 0..3 {
        store.grants.give_back(token.id).await;
    }
    store.grants.flush().await.unwrap();
    assert_eq!(take_at_once(store, token.id, 9).await, 3);
    assert_eq!(count(store, token.id).await, 20);
}

pub(crate) async fn tokens_do_not_disturb_each_other(store: &Store) {
    let (_, one) = with_token(store, "sk-one").await;
    let (_, two) = with_token(store, "sk-two").await;
    let (first, second) =
        futures_util::join!(take_at_once(store, one.id, 30), take_at_once(store, two.id, 7));
    assert_eq!((first, second), (20, 7));
    assert_eq!((count(store, one.id).await, count(store, two.id).await), (20, 7));
}

pub(crate) async fn a_changed_cap_holds_for_the_next_request(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    assert_eq!(take_at_once(store, token.id, 5).await, 5);
    let patch = |cap| TokenPatch {
        max_requests: cap,
        ..TokenPatch::default()
    };
    let lower = patch(Change::Set(NonZeroU64::new(6).unwrap()));
    store.tokens.patch(token.id, &lower, at(1)).await.unwrap();
    store.grants.forget(token.id).await.unwrap();
    assert_eq!(store.grants.take(token.id, 6).await, Ok(GrantOutcome::Granted));
    assert_eq!(store.grants.take(token.id, 6).await, Ok(GrantOutcome::Exhausted));

    let unlimited = patch(Change::Remove);
    store.tokens.patch(token.id, &unlimited, at(2)).await.unwrap();
    let used = UsageDelta {
        token_id: token.id,
        requests: 10,
        cache_hits: 0,
        last_used_at: at(3),
    };
    store.usage.add(&[used]).await.unwrap();
    let again = patch(Change::Set(NonZeroU64::new(CAP).unwrap()));
    store.tokens.patch(token.id, &again, at(4)).await.unwrap();
    store.grants.forget(token.id).await.unwrap();
    assert_eq!(
        take_at_once(store, token.id, 9).await,
        4,
        "6 grants and 10 others of 20 are used"
    );
}

pub(crate) async fn a_token_that_is_not_there_is_an_error(store: &Store) {
    let refused = store.grants.take(TokenId::random(), CAP).await.unwrap_err();
    assert_eq!(refused.kind(), "inconsistent");
}

pub(crate) async fn a_caller_who_stops_waiting_leaves_nothing_behind(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    let mut taken = 0;
    for _ in 0..50 {
        let mut take = store.grants.take(token.id, CAP);
        // Polled once, then dropped; a store that answers at once has granted it all the same.
        if let Poll::Ready(Ok(GrantOutcome::Granted)) = futures_util::poll!(&mut take) {
            taken += 1;
        }
        drop(take);
    }
    // An abandoned statement may be under way still; its grants come back.
    for _ in 0..2_000 {
        taken += take_at_once(store, token.id, 20).await;
        store.grants.flush().await.unwrap();
        if taken == 20 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(taken, 20);
    assert!(
        store
            .tokens
            .by_hash(TokenHash::of("sk-one"))
            .await
            .unwrap()
            .is_some()
    );
}
