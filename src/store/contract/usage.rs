//! What every store of counters does.

use std::sync::Arc;

use super::{at, with_token};
use crate::domain::TokenId;
use crate::store::{Store, UsageDelta};

fn delta(token_id: TokenId, requests: u64, cache_hits: u64, seconds: i64) -> UsageDelta {
    UsageDelta {
        token_id,
        requests,
        cache_hits,
        last_used_at: at(seconds),
    }
}

pub(crate) async fn counters_add_up_and_unknown_tokens_are_skipped(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    let batch = [
        delta(token.id, 2, 1, 5),
        delta(TokenId::random(), 9, 9, 9),
        delta(token.id, 3, 0, 6),
    ];
    store.usage.add(&batch).await.unwrap();
    store.usage.add(&[]).await.unwrap();
    let token = store.tokens.get(token.id).await.unwrap().unwrap();
    assert_eq!((token.request_count, token.cache_hit_count), (5, 1));
    assert_eq!(token.last_used_at, Some(at(6)));
}

pub(crate) async fn last_use_never_goes_backwards(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    store.usage.add(&[delta(token.id, 1, 0, 9)]).await.unwrap();
    store.usage.add(&[delta(token.id, 1, 0, 3)]).await.unwrap();
    let token = store.tokens.get(token.id).await.unwrap().unwrap();
    assert_eq!((token.request_count, token.last_used_at), (2, Some(at(9))));
}

pub(crate) async fn adding_from_many_tasks_loses_nothing(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    let (_, other) = with_token(store, "sk-two").await;
    let usage = Arc::clone(&store.usage);
    let adding = (0..20).map(|turn| {
        let usage = Arc::clone(&usage);
        // Both orders, so that a store that locks row by row meets itself.
        let mut batch = [delta(token.id, 1, 0, 1), delta(other.id, 1, 0, 1)];
        if turn % 2 == 0 {
            batch.reverse();
        }
        async move { usage.add(&batch).await.unwrap() }
    });
    futures_util::future::join_all(adding).await;
    for id in [token.id, other.id] {
        assert_eq!(store.tokens.get(id).await.unwrap().unwrap().request_count, 20);
    }
}
