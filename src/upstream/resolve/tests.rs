use std::time::Duration;

use super::*;
use crate::config::{BaseUrl, ModelSettings, ProviderSettings, Settings, Strategy, TargetSettings};
use crate::domain::{ManualClock, Timestamp};
use crate::upstream::Upstreams;
use crate::upstream::keys::KeyFault;
use crate::upstream::rules::RequestFacts;

const ALL: AllowedModels<'static> = AllowedModels {
    token: &[],
    project: &[],
};
const NOW: Duration = Duration::from_secs(5);

/// A request of a project without keys of its own.
fn attempts<'r>(catalogue: &'r Catalogue, route: &'r Route) -> Attempts<'r> {
    route.attempts(catalogue.key_registry(), &|_| None, 1)
}

fn target(provider: &str, model: &str, weight: u32, priority: u32) -> TargetSettings {
    TargetSettings {
        provider: provider.into(),
        model: model.into(),
        weight,
        priority,
    }
}

fn model(name: &str, strategy: Strategy, targets: Vec<TargetSettings>) -> ModelSettings {
    ModelSettings {
        name: name.into(),
        targets,
        strategy,
        fallbacks: Vec::new(),
        first_token: None,
        context_window: None,
        max_output_tokens: None,
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    let groq = ProviderSettings::new("groq", Dialect::OpenAi, BaseUrl::https("api.groq.com"));
    settings.providers.insert(0, groq);
    settings.models = vec![
        model(
            "fast",
            Strategy::Priority,
            vec![
                target("groq", "llama-3", 1, 0),
                target("openai", "gpt-4o-mini", 1, 1),
            ],
        ),
        model(
            "smart",
            Strategy::Weighted,
            vec![target("anthropic", "claude", 1, 0)],
        ),
        model(
            "both",
            Strategy::Weighted,
            vec![
                target("openai", "gpt-4o", 1, 0),
                target("anthropic", "claude", 1, 0),
            ],
        ),
        model(
            "vendor/large",
            Strategy::Weighted,
            vec![target("openai", "gpt-4o", 1, 0)],
        ),
    ];
    settings
}

fn catalogue_of(settings: &Settings) -> Catalogue {
    Upstreams::new(ManualClock::at(Timestamp::EPOCH))
        .catalogue(settings)
        .unwrap()
}

fn asked(model: Option<&str>, client: Dialect) -> Asked<'_> {
    Asked {
        model,
        client,
        path: "/v1/x",
        class: PathClass::Inference,
    }
}

fn shown(route: &Route) -> String {
    route
        .cache_identity()
        .iter()
        .map(|(provider, model)| format!("{provider}:{model}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn each_name_finds_its_targets() {
    let catalogue = catalogue_of(&settings());
    let table = [
        (Some("fast"), Dialect::OpenAi, "groq:llama-3 openai:gpt-4o-mini"),
        (Some("both"), Dialect::OpenAi, "openai:gpt-4o"),
        (Some("both"), Dialect::Anthropic, "anthropic:claude"),
        (Some("vendor/large"), Dialect::OpenAi, "openai:gpt-4o"),
        (Some("groq/meta/llama"), Dialect::OpenAi, "groq:meta/llama"),
        (Some("meta/llama"), Dialect::OpenAi, "openai:meta/llama"),
        (Some("openai/"), Dialect::OpenAi, "openai:openai/"),
        (Some("gpt-x"), Dialect::OpenAi, "openai:gpt-x"),
        (Some("claude-x"), Dialect::Anthropic, "anthropic:claude-x"),
        (None, Dialect::OpenAi, "openai:"),
        (None, Dialect::Anthropic, "anthropic:"),
    ];
    for (model, client, expected) in table {
        let route = catalogue.resolve(&asked(model, client), ALL).unwrap();
        assert_eq!(shown(&route), expected, "{model:?} {client}");
    }
}

#[test]
fn a_model_of_another_dialect_is_refused_with_the_path_to_use() {
    let catalogue = catalogue_of(&settings());
    let denial = catalogue
        .resolve(&asked(Some("smart"), Dialect::OpenAi), ALL)
        .unwrap_err();
    assert_eq!(denial.code, DenialCode::UnsupportedValue);
    assert_eq!(denial.param.as_deref(), Some("model"));
    assert_eq!(
        denial.message,
        "model `smart` is served in the anthropic dialect: use /v1/messages"
    );
    let denial = catalogue
        .resolve(&asked(Some("openai/gpt-4o"), Dialect::Anthropic), ALL)
        .unwrap_err();
    assert_eq!(
        denial.message,
        "model `openai/gpt-4o` is served in the openai dialect: use /v1/chat/completions"
    );
}

#[test]
fn rejected_names_are_404_and_name_the_nearest_that_are_allowed() {
    let mut settings = settings();
    settings.unknown_models = UnknownModels::Reject;
    let catalogue = catalogue_of(&settings);
    let denial = catalogue
        .resolve(&asked(Some("smar"), Dialect::OpenAi), ALL)
        .unwrap_err();
    assert_eq!(denial.code, DenialCode::ModelNotFound);
    assert_eq!(
        denial.message,
        "model `smar` does not exist; the nearest: `smart`"
    );
    let only_fast = [Glob::new("fast")];
    let allowed = AllowedModels {
        token: &only_fast,
        project: &[],
    };
    let denial = catalogue
        .resolve(&asked(Some("smar"), Dialect::OpenAi), allowed)
        .unwrap_err();
    assert!(!denial.message.contains("`smart`"), "{}", denial.message);
    assert!(
        catalogue
            .resolve(&asked(Some("groq/anything"), Dialect::OpenAi), ALL)
            .is_ok()
    );
}

#[test]
fn without_a_model_and_without_the_dialect_the_endpoint_does_not_exist() {
    let mut settings = settings();
    settings
        .providers
        .retain(|provider| provider.dialect == Dialect::OpenAi);
    settings.models.clear();
    let catalogue = catalogue_of(&settings);
    let denial = catalogue
        .resolve(&asked(None, Dialect::Anthropic), ALL)
        .unwrap_err();
    assert_eq!(denial.code, DenialCode::EndpointNotFound);
    let denial = catalogue
        .resolve(&asked(Some("x"), Dialect::Anthropic), ALL)
        .unwrap_err();
    assert_eq!(denial.code, DenialCode::UnsupportedValue);
}

#[test]
fn one_match_of_either_form_allows_a_model() {
    let catalogue = catalogue_of(&settings());
    let check = |name: Option<&str>, token: &[&str], project: &[&str]| {
        let globs = |list: &[&str]| list.iter().map(|glob| Glob::new(*glob)).collect::<Vec<_>>();
        let (token, project) = (globs(token), globs(project));
        let allowed = AllowedModels {
            token: &token,
            project: &project,
        };
        match catalogue.check_allowed_models(name, allowed) {
            Ok(()) => "ok",
            Err(denial) => denial.code.as_str(),
        }
    };
    assert_eq!(check(Some("gpt-4o"), &[], &[]), "ok");
    assert_eq!(check(None, &[], &[]), "ok");
    assert_eq!(check(None, &["*"], &[]), "invalid_json");
    assert_eq!(
        check(Some("gpt-4o"), &["gpt-4o"], &["claude-*"]),
        "model_not_allowed"
    );
    assert_eq!(check(Some("gpt-4o"), &["gpt-4o"], &["gpt-*"]), "ok");
    assert_eq!(check(Some("openai/gpt-4o"), &["gpt-*"], &[]), "ok");
    assert_eq!(check(Some("openai/gpt-4o"), &["openai/*"], &[]), "ok");
    assert_eq!(check(Some("openai/gpt-4o"), &["openai/*"], &["gpt-*"]), "ok");
    assert_eq!(check(Some("evil/gpt-4o"), &["gpt-*"], &[]), "model_not_allowed");
    assert_eq!(check(Some("fast"), &["f*"], &[]), "ok");
}

#[test]
fn targets_whose_rules_refuse_are_left_out_and_all_together_refuse() {
    let mut settings = settings();
    settings.providers[0].required_headers = vec!["x-team".into()];
    let catalogue = catalogue_of(&settings);
    let headers = http::HeaderMap::new();
    let request = RequestFacts::new("POST", "/v1/chat/completions", &headers);
    let route = catalogue
        .resolve(&asked(Some("fast"), Dialect::OpenAi), ALL)
        .unwrap();
    let route = route
        .keep(|target| target.provider.rules.check_head(&request, false))
        .unwrap();
    assert_eq!(shown(&route), "openai:gpt-4o-mini");
    let denial = route
        .keep(|_| Err(Denial::new(DenialCode::ParamNotAllowed, "no")))
        .unwrap_err();
    assert_eq!(denial.code, DenialCode::ParamNotAllowed);
}

#[test]
fn early_rules_refuse_only_if_all_providers_that_could_serve_the_path_do() {
    let mut settings = settings();
    let catalogue = catalogue_of(&settings);
    let headers = http::HeaderMap::new();
    let code = |catalogue: &Catalogue, method: &str, path: &str, client| {
        let request = RequestFacts::new(method, path, &headers);
        let verdict = catalogue
            .admit_path(client, &request)
            .and_then(|()| catalogue.admit_origin(client, &request));
        verdict.map_or_else(|denial| denial.code.as_str(), |()| "ok")
    };
    let openai = Dialect::OpenAi;
    assert_eq!(code(&catalogue, "POST", "/v1/chat/completions", openai), "ok");
    assert_eq!(
        code(&catalogue, "GET", "/v1/embeddings", openai),
        "method_not_allowed"
    );
    assert_eq!(code(&catalogue, "GET", "/v1/files", openai), "ok");
    assert_eq!(
        code(&catalogue, "GET", "/v1/nonsense", openai),
        "endpoint_not_found"
    );
    settings.providers[0].required_headers = vec!["x-team".into()];
    assert_eq!(
        code(&catalogue_of(&settings), "POST", "/v1/embeddings", openai),
        "ok"
    );
    settings.providers[1].required_headers = vec!["origin".into()];
    assert_eq!(
        code(&catalogue_of(&settings), "POST", "/v1/embeddings", openai),
        "header_required"
    );
    settings.providers.truncate(2);
    settings.models.truncate(1);
    let catalogue = catalogue_of(&settings);
    assert_eq!(code(&catalogue, "POST", "/v1/messages", Dialect::Anthropic), "ok");
    assert_eq!(
        code(&catalogue, "GET", "/v1/messages", Dialect::Anthropic),
        "method_not_allowed"
    );
}

#[test]
fn attempts_go_from_target_to_target_and_skip_open_ones() {
    let catalogue = catalogue_of(&settings());
    let route = catalogue
        .resolve(&asked(Some("fast"), Dialect::OpenAi), ALL)
        .unwrap();
    for _ in 0..5 {
        let mut attempts = attempts(&catalogue, &route);
        let mut first = attempts.first(NOW).unwrap();
        assert_eq!(&*first.provider().name, "groq");
        first.permit.failed(NOW, &catalogue.router.cooldown);
        assert_eq!(&*attempts.next(NOW).unwrap().provider().name, "openai");
        assert!(attempts.next(NOW).is_none());
    }
    let mut attempts = attempts(&catalogue, &route);
    assert_eq!(&*attempts.first(NOW).unwrap().provider().name, "openai");
    assert!(!attempts.another(NOW));
    assert!(attempts.same(NOW, true).is_some());
}

#[test]
fn when_every_breaker_is_open_the_refusal_says_how_long() {
    let catalogue = catalogue_of(&settings());
    let route = catalogue
        .resolve(&asked(Some("openai/gpt-4o"), Dialect::OpenAi), ALL)
        .unwrap();
    for _ in 0..5 {
        attempts(&catalogue, &route)
            .first(NOW)
            .unwrap()
            .permit
            .failed(NOW, &catalogue.router.cooldown);
    }
    let later = NOW + Duration::from_millis(10_500);
    let denial = attempts(&catalogue, &route).first(later).unwrap_err();
    assert_eq!(denial.code, DenialCode::CircuitOpen);
    assert_eq!(denial.retry_after_seconds(), Some(20));
    let snapshot = catalogue.snapshot(later);
    let openai = snapshot
        .iter()
        .find(|provider| provider.name == "openai")
        .unwrap();
    let open = openai
        .targets
        .iter()
        .find(|target| target.state == "open")
        .unwrap();
    assert_eq!(open.model, "gpt-4o");
}

#[test]
fn a_reload_keeps_breakers_and_pools_of_what_did_not_change() {
    let upstreams = Upstreams::new(ManualClock::at(Timestamp::EPOCH));
    let mut settings = settings();
    let old = upstreams.catalogue(&settings).unwrap();
    let route = old
        .resolve(&asked(Some("smart"), Dialect::Anthropic), ALL)
        .unwrap();
    for _ in 0..5 {
        let mut attempts = attempts(&old, &route);
        attempts
            .first(NOW)
            .unwrap()
            .permit
            .failed(NOW, &old.router.cooldown);
    }
    settings.models.remove(0);
    settings.providers[1].timeouts.connect = Duration::from_secs(1);
    let new = upstreams.catalogue(&settings).unwrap();
    let same_pool = |name: &str| {
        let connector = |catalogue: &Catalogue| catalogue.provider(name).unwrap().connector.clone().unwrap();
        Arc::ptr_eq(&connector(&old), &connector(&new))
    };
    assert!(same_pool("openai") && same_pool("groq"));
    let route = new
        .resolve(&asked(Some("smart"), Dialect::Anthropic), ALL)
        .unwrap();
    assert!(attempts(&new, &route).first(NOW).is_err());
    settings.providers[0].base_url = BaseUrl::https("elsewhere.example");
    let third = upstreams.catalogue(&settings).unwrap();
    let connector = |catalogue: &Catalogue| catalogue.provider("groq").unwrap().connector.clone().unwrap();
    assert!(!Arc::ptr_eq(&connector(&new), &connector(&third)));
}

#[test]
fn public_models_are_those_that_token_and_project_may_use() {
    let catalogue = catalogue_of(&settings());
    let token = [Glob::new("fast"), Glob::new("smart"), Glob::new("vendor/*")];
    let project = [Glob::new("s*"), Glob::new("*/large")];
    let allowed = AllowedModels {
        token: &token,
        project: &project,
    };
    let names: Vec<&str> = catalogue
        .public_models(allowed)
        .map(|model| &*model.name)
        .collect();
    assert_eq!(names, ["smart", "vendor/large"]);
}

fn with_fallbacks() -> Settings {
    let mut settings = settings();
    let key = |id: &str| crate::config::KeySettings {
        id: id.into(),
        key: crate::domain::Secret::new(format!("sk-{id}")),
        rpm: None,
        tpm: None,
    };
    settings.providers[0].api_keys = vec![key("one"), key("two")];
    settings.models = vec![
        ModelSettings {
            fallbacks: vec!["large".into(), "small".into()],
            context_window: Some(8_000),
            ..model("first", Strategy::Weighted, vec![target("groq", "a", 1, 0)])
        },
        ModelSettings {
            context_window: Some(100_000),
            ..model("large", Strategy::Weighted, vec![target("openai", "b", 1, 0)])
        },
        ModelSettings {
            context_window: Some(4_000),
            ..model("small", Strategy::Weighted, vec![target("groq", "c", 1, 0)])
        },
    ];
    settings
}

fn next_model(attempts: &mut Attempts<'_>) -> Option<String> {
    attempts
        .next(NOW)
        .map(|attempt| attempt.target.model.clone().unwrap().to_string())
}

#[test]
fn fallbacks_follow_in_their_order_and_a_new_round_begins_with_the_own_targets() {
    let catalogue = catalogue_of(&with_fallbacks());
    let route = catalogue
        .resolve(&asked(Some("first"), Dialect::OpenAi), ALL)
        .unwrap();
    let mut tried = attempts(&catalogue, &route);
    let first = tried.first(NOW).unwrap();
    assert_eq!(first.target.public.as_deref(), Some("first"));
    assert!(tried.another(NOW));
    assert_eq!(next_model(&mut tried).as_deref(), Some("b"));
    assert_eq!(next_model(&mut tried).as_deref(), Some("c"));
    assert_eq!(next_model(&mut tried), None);
    tried.begin_round(NOW);
    assert_eq!(next_model(&mut tried).as_deref(), Some("a"));
    let mut tried = attempts(&catalogue, &route);
    let _first = tried.first(NOW).unwrap();
    tried.only_larger();
    assert_eq!(next_model(&mut tried).as_deref(), Some("b"));
    assert_eq!(next_model(&mut tried), None, "the small one reads less");
}

#[test]
fn a_benched_key_gives_way_to_the_next_and_to_another_target() {
    let catalogue = catalogue_of(&with_fallbacks());
    let route = catalogue
        .resolve(&asked(Some("first"), Dialect::OpenAi), ALL)
        .unwrap();
    let key_of = |attempt: &Attempt<'_>| attempt.key.pooled().unwrap().id.to_string();
    let mut tried = attempts(&catalogue, &route);
    let first = tried.first(NOW).unwrap();
    assert_eq!(key_of(&first), "one");
    tried.bench(&first, NOW, KeyFault::Refused, None);
    let second = tried.other_key(NOW).unwrap();
    assert_eq!(key_of(&second), "two");
    tried.bench(&second, NOW, KeyFault::Refused, None);
    assert!(tried.other_key(NOW).is_none());
    assert_eq!(
        next_model(&mut tried).as_deref(),
        Some("b"),
        "`groq` has no key left"
    );
    assert_eq!(next_model(&mut tried), None);
    // a request begins where a key is left
    let mut tried = attempts(&catalogue, &route);
    assert_eq!(&*tried.first(NOW).unwrap().provider().name, "openai");
    // and is asked with the refused key when nothing else could answer
    let route = catalogue
        .resolve(&asked(Some("groq/x"), Dialect::OpenAi), ALL)
        .unwrap();
    let mut tried = attempts(&catalogue, &route);
    let last_resort = tried.first(NOW).unwrap();
    tried.bench(
        &last_resort,
        NOW,
        KeyFault::RateLimited,
        Some(Duration::from_secs(7)),
    );
    let own = crate::domain::Secret::new("sk-own");
    let own_key = |_: &str| Some(&own);
    let mut tried = route.attempts(catalogue.key_registry(), &own_key, 1);
    assert!(
        matches!(tried.first(NOW).unwrap().key, AttemptKey::Own(None)),
        "a project's own key is its own affair"
    );
}

#[test]
fn further_attempts_at_a_target_are_bounded() {
    let catalogue = catalogue_of(&settings());
    let route = catalogue
        .resolve(&asked(Some("openai/m"), Dialect::OpenAi), ALL)
        .unwrap();
    let mut tried = attempts(&catalogue, &route);
    let cooldown = crate::config::CooldownSettings {
        failures: 100,
        ..catalogue.router.cooldown.clone()
    };
    for _ in 0..20 {
        attempts(&catalogue, &route)
            .first(NOW)
            .unwrap()
            .permit
            .failed(NOW, &cooldown);
    }
    tried.first(NOW).unwrap();
    let further = (0..50).take_while(|_| tried.same(NOW, false).is_some()).count();
    assert_eq!(further, 14, "ten, and a fifth of twenty");
    assert!(
        tried.same(NOW, true).is_some(),
        "a dead idle connection is nobody's load"
    );
}
