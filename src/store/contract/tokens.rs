//! What every store of tokens does.

use super::{ALL, at, full_project, full_token, with_token};
use crate::domain::patch::{Change, LimitsPatch, PatchRefused, TokenPatch};
use crate::domain::{ProjectId, TokenHash, TokenId};
use crate::store::tokens::TokenFilter;
use crate::store::{Page, Store, StoreError, UsageDelta};

pub(crate) async fn a_token_reads_back_as_it_was_written(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    assert_eq!(store.tokens.get(token.id).await.unwrap(), Some(token));
}

pub(crate) async fn absent_is_none_and_never_an_error(store: &Store) {
    let id = TokenId::random();
    assert_eq!(store.tokens.get(id).await.unwrap(), None);
    assert_eq!(store.tokens.by_hash(TokenHash::of("nobody")).await.unwrap(), None);
    let patched = store.tokens.patch(id, &TokenPatch::default(), at(0)).await;
    assert_eq!(patched.unwrap(), None);
    let rotated = store
        .tokens
        .rotate(id, TokenHash::of("new"), "sk-***", at(0))
        .await;
    assert_eq!(rotated.unwrap(), None);
    let counts = store.tokens.revoke_all(ProjectId::random(), at(0)).await.unwrap();
    assert_eq!(counts.total_tokens, 0);
}

pub(crate) async fn a_token_is_found_by_the_hash_of_its_secret_together_with_its_project(store: &Store) {
    let (project, token) = with_token(store, "sk-one").await;
    with_token(store, "sk-two").await;
    let found = store
        .tokens
        .by_hash(TokenHash::of("sk-one"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.token, token);
    assert_eq!(found.project, project);
    assert_eq!(found.secret_expires_at, None);
}

pub(crate) async fn lists_are_newest_first_paged_and_filtered(store: &Store) {
    let (one, two) = (full_project("one"), full_project("two"));
    store.projects.create(&one).await.unwrap();
    store.projects.create(&two).await.unwrap();
    let mut ids = Vec::new();
    for created in 0..5 {
        let owner = if created == 2 { two.id } else { one.id };
        let mut token = full_token(owner, created);
        token.is_active = created != 3;
        token.expires_at = at(1000 + created);
        let hash = TokenHash::of(&created.to_string());
        store.tokens.create(&token, hash).await.unwrap();
        ids.push(token.id);
    }
    let listed = |filter: TokenFilter, page: Page| async move {
        let list = store.tokens.list(filter, page).await.unwrap();
        (
            list.rows.into_iter().map(|t| t.id).collect::<Vec<_>>(),
            list.total,
        )
    };
    let everything = TokenFilter::default();
    assert_eq!(
        listed(everything, ALL).await,
        (vec![ids[4], ids[3], ids[2], ids[1], ids[0]], 5)
    );
    let second = Page { number: 2, size: 2 };
    assert_eq!(listed(everything, second).await, (vec![ids[2], ids[1]], 5));
    let active = TokenFilter {
        project_id: Some(one.id),
        active_at: Some(at(1000)),
    };
    assert_eq!(listed(active, ALL).await, (vec![ids[4], ids[1]], 2));
}

pub(crate) async fn a_patch_merges_and_leaves_the_counters_alone(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    let used = UsageDelta {
        token_id: token.id,
        requests: 3,
        cache_hits: 2,
        last_used_at: at(50),
    };
    store.usage.add(&[used]).await.unwrap();
    let patch = TokenPatch {
        is_active: Some(false),
        name: Change::Remove,
        max_requests: Change::Remove,
        limits: Change::Set(LimitsPatch {
            rpm: Change::Remove,
            ..LimitsPatch::default()
        }),
        expires_at: Some(at(500)),
        ..TokenPatch::default()
    };
    let patched = store
        .tokens
        .patch(token.id, &patch, at(60))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.tokens.get(token.id).await.unwrap().as_ref(), Some(&patched));
    assert_eq!((patched.request_count, patched.cache_hit_count), (3, 2));
    assert_eq!((patched.is_active, patched.deactivated_at), (false, Some(at(60))));
    assert_eq!((patched.name, patched.max_requests), (None, None));
    assert!(patched.limits.is_unlimited());
    assert_eq!(patched.allowed_ips, token.allowed_ips);
}

pub(crate) async fn an_expiry_cannot_be_extended_and_a_refused_patch_changes_nothing(store: &Store) {
    let (_, token) = with_token(store, "sk-one").await;
    let patch = TokenPatch {
        is_active: Some(false),
        expires_at: Some(at(1001)),
        ..TokenPatch::default()
    };
    assert_eq!(
        store.tokens.patch(token.id, &patch, at(60)).await,
        Err(StoreError::Refused(PatchRefused::ExpiryExtended))
    );
    assert_eq!(store.tokens.get(token.id).await.unwrap(), Some(token));
}

pub(crate) async fn revocation_of_a_project_counts_what_it_did(store: &Store) {
    let (project, first) = with_token(store, "sk-one").await;
    let (_, other) = with_token(store, "sk-two").await;
    let second = full_token(project.id, 1);
    store
        .tokens
        .create(&second, TokenHash::of("sk-three"))
        .await
        .unwrap();
    let off = TokenPatch {
        is_active: Some(false),
        ..TokenPatch::default()
    };
    store.tokens.patch(first.id, &off, at(5)).await.unwrap();
    let counts = store.tokens.revoke_all(project.id, at(9)).await.unwrap();
    assert_eq!(
        (
            counts.revoked_count,
            counts.already_revoked_count,
            counts.total_tokens
        ),
        (1, 1, 2)
    );
    let revoked = store.tokens.get(second.id).await.unwrap().unwrap();
    assert_eq!((revoked.is_active, revoked.deactivated_at), (false, Some(at(9))));
    let before = store.tokens.get(first.id).await.unwrap().unwrap();
    assert_eq!(before.deactivated_at, Some(at(5)));
    assert!(store.tokens.get(other.id).await.unwrap().unwrap().is_active);
}

pub(crate) async fn a_rotated_secret_lives_until_the_overlap_ends(store: &Store) {
    let (_, token) = with_token(store, "sk-first").await;
    let tokens = &store.tokens;
    let rotated = tokens
        .rotate(token.id, TokenHash::of("sk-second"), "sk-seco***", at(100))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rotated.obfuscated, "sk-seco***");
    tokens
        .rotate(token.id, TokenHash::of("sk-third"), "sk-thir***", at(200))
        .await
        .unwrap();
    let ends = |secret: &'static str| async move {
        let found = tokens.by_hash(TokenHash::of(secret)).await.unwrap().unwrap();
        assert_eq!(found.token.obfuscated, "sk-thir***");
        found.secret_expires_at
    };
    assert_eq!(
        ends("sk-first").await,
        Some(at(100)),
        "an end is never moved later"
    );
    assert_eq!(ends("sk-second").await, Some(at(200)));
    assert_eq!(ends("sk-third").await, None);
}

pub(crate) async fn a_second_token_with_the_same_secret_is_a_conflict(store: &Store) {
    let (project, _) = with_token(store, "sk-one").await;
    let second = full_token(project.id, 1);
    let refused = store
        .tokens
        .create(&second, TokenHash::of("sk-one"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), "conflict");
    assert_eq!(store.tokens.get(second.id).await.unwrap(), None, "all or nothing");
}

pub(crate) async fn a_token_without_project_is_refused(store: &Store) {
    let orphan = full_token(ProjectId::random(), 0);
    let refused = store
        .tokens
        .create(&orphan, TokenHash::of("sk-one"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("there is no project"), "{refused}");
}
