//! The suite that every back end passes, written once.

pub(super) mod audit;
pub(super) mod grants;
pub(super) mod ledger;
pub(super) mod projects;
pub(super) mod tokens;
pub(super) mod usage;

use std::num::{NonZeroU32, NonZeroU64};

use serde_json::json;

use super::{Page, Store};
use crate::domain::project::ProviderKey;
use crate::domain::{
    Budget, BudgetPeriod, Glob, Limits, Project, ProjectId, Secret, Timestamp, Token, TokenHash, TokenId,
};

/// All rows of a list.
pub(super) const ALL: Page = Page {
    number: 1,
    size: 1000,
};

/// Hands the list of all cases to the macro `$then`, after what else it needs.
macro_rules! with_cases {
    ($then:ident, $($more:tt)*) => {
        $then! { $($more)* =>
        tokens::{
            a_token_reads_back_as_it_was_written, absent_is_none_and_never_an_error,
            a_token_is_found_by_the_hash_of_its_secret_together_with_its_project,
            lists_are_newest_first_paged_and_filtered, a_patch_merges_and_leaves_the_counters_alone,
            an_expiry_cannot_be_extended_and_a_refused_patch_changes_nothing,
            revocation_of_a_project_counts_what_it_did, a_rotated_secret_lives_until_the_overlap_ends,
            a_second_token_with_the_same_secret_is_a_conflict, a_token_without_project_is_refused,
        }
        projects::{
            a_project_reads_back_as_it_was_written, a_taken_name_is_a_conflict_on_create_and_patch,
            a_patch_sets_and_removes_provider_keys, projects_are_listed_by_name,
            names_with_odd_characters_survive,
        }
        audit::{
            events_read_back_and_a_repeated_batch_is_harmless, every_filter_selects,
            search_takes_wildcards_literally, old_events_are_pruned,
        }
        usage::{
            counters_add_up_and_unknown_tokens_are_skipped, last_use_never_goes_backwards,
            adding_from_many_tasks_loses_nothing,
        }
        ledger::{
            a_record_reads_back_as_it_was_written, a_record_that_is_given_again_changes_nothing,
            sums_by_groups_are_those_of_the_records_whatever_the_range, records_are_newest_first_filtered_and_paged,
            what_was_spent_adds_up_for_token_and_project,
            what_was_spent_is_known_by_the_day_and_for_everybody, old_records_go_and_their_sums_stay,
            batches_from_many_tasks_lose_nothing,
        }
        grants::{
            a_cap_is_exact_however_many_ask_at_once, what_is_given_back_may_be_granted_again,
            tokens_do_not_disturb_each_other, a_changed_cap_holds_for_the_next_request,
            a_token_that_is_not_there_is_an_error, a_caller_who_stops_waiting_leaves_nothing_behind,
        }
        }
    };
}

/// Makes every case a test of its own. `$open` answers something with a `store` that is fresh and empty.
macro_rules! tests_of_cases {
    ($open:path => $($module:ident :: { $($case:ident),+ $(,)? })+) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $case() {
                let bench = $open().await;
                $crate::store::contract::$module::$case(&bench.store).await;
                bench.store.close().await;
            })+
        })+
    };
}

/// Makes a list of name and case, to be run where starting a server for each would take too long.
macro_rules! list_of_cases {
    (cases => $($module:ident :: { $($case:ident),+ $(,)? })+) => {
        vec![$($((
            concat!(stringify!($module), "::", stringify!($case)),
            (|store| Box::pin($crate::store::contract::$module::$case(store))) as $crate::store::contract::Case,
        )),+),+]
    };
}

pub(super) use {tests_of_cases, with_cases};

/// A case of the suite.
pub(super) type Case = fn(&Store) -> futures_util::future::BoxFuture<'_, ()>;

/// Every case with its name.
pub(super) fn all_cases() -> Vec<(&'static str, Case)> {
    with_cases!(list_of_cases, cases)
}

/// A time on a fixed day, `seconds` in.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000)
}

/// A project with everything set.
pub(super) fn full_project(name: &str) -> Project {
    Project {
        id: ProjectId::random(),
        name: name.to_owned(),
        is_active: true,
        deactivated_at: None,
        created_at: at(0),
        updated_at: at(1),
        provider_keys: [("openai", "enc:v1:abc"), ("anthropic", "plain")]
            .into_iter()
            .map(|(provider, sealed)| {
                let key = ProviderKey {
                    sealed: Secret::new(sealed),
                    obfuscated: "ab***".to_owned(),
                };
                (provider.to_owned(), key)
            })
            .collect(),
        allowed_models: vec![Glob::new("gpt-*")],
        limits: Limits {
            rpm: NonZeroU32::new(60),
            tpm: NonZeroU64::new(u64::from(u32::MAX) + 1),
            concurrency: NonZeroU32::new(u32::MAX),
        },
        budget: Some(Budget {
            nano_usd: 0,
            period: BudgetPeriod::Week,
        }),
        metadata: json!({"b": 1, "a": {"ü": [null, "\u{0}x"]}})
            .as_object()
            .unwrap()
            .clone(),
    }
}

/// A token with everything set.
pub(super) fn full_token(project: ProjectId, created: i64) -> Token {
    Token {
        id: TokenId::random(),
        project_id: project,
        name: Some("ci `x` 'y'".to_owned()),
        obfuscated: "sk-abcd***wxyz".to_owned(),
        expires_at: at(1000),
        is_active: true,
        deactivated_at: None,
        created_at: at(created),
        last_used_at: None,
        request_count: 0,
        cache_hit_count: 0,
        max_requests: NonZeroU64::new(20),
        allowed_models: vec![Glob::new("a/*"), Glob::new("b")],
        allowed_endpoints: vec!["/v1/chat/completions".to_owned()],
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        limits: Limits {
            rpm: NonZeroU32::new(1),
            ..Limits::default()
        },
        budget: Some(Budget {
            nano_usd: 1_500_000_000,
            period: BudgetPeriod::Total,
        }),
        metadata: json!({"team": "ops"}).as_object().unwrap().clone(),
    }
}

/// Stores a project and one token of it.
pub(super) async fn with_token(store: &Store, secret: &str) -> (Project, Token) {
    let project = full_project(secret);
    store.projects.create(&project).await.unwrap();
    let token = full_token(project.id, 0);
    store.tokens.create(&token, TokenHash::of(secret)).await.unwrap();
    (project, token)
}
