//! Settings that no other file changes: each is set, and the difference is seen from outside. `keys.rs` holds the list of
//! all settings against the tests.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{Store, TestEdge, TokenUser};
use crate::http::{Request, chat, chat_streamed};
use crate::provider::{Provider, Reply};
use crate::servers::{Postgres, Redis, tls_provider};
use crate::wait::wait_until;

const CHAT: &str = "/v1/chat/completions";

fn start(over: Value) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(over).start();
    let user = edge.token_of(
        &edge.project(json!({"providers": {"openai": "sk-own-key-of-the-project"}})),
        json!({}),
    );
    (provider, edge, user)
}

fn metric(edge: &TestEdge, name: &str) -> u64 {
    let text = edge.sidecar().get("/metrics/prometheus").expect(200).text();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("llm_proxy_{name} ")));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    number.unwrap_or_else(|| panic!("no `{name}`:\n{text}")) as u64
}

#[test]
fn path_prefixes_replace_the_usual_one() {
    let (_provider, _edge, user) = start(json!({"server": {"path_prefixes": ["/gate"]}}));
    user.post("/gate/v1/chat/completions", chat("gpt-a")).expect(200);
    user.post("/api/litellm/v1/chat/completions", chat("gpt-a"))
        .refused(404, "endpoint_not_found");
}

#[test]
fn known_and_unknown_tokens_are_kept_in_bounds() {
    let (_provider, edge, _) =
        start(json!({"auth": {"known_tokens": 4, "unknown_tokens": 4, "failed_per_ip": 1000}}));
    for index in 0..20 {
        edge.token(json!({})).chat("gpt-a").expect(200);
        let nobody = edge
            .anonymous()
            .with("Authorization", &format!("Bearer sk-nobody-number-{index}"));
        nobody.post(CHAT, chat("gpt-a")).refused(401, "token_not_found");
    }
    assert!(metric(&edge, "known_tokens") <= 4 && metric(&edge, "unknown_tokens") <= 4);
    assert!(metric(&edge, "token_reads_total") >= 40);
}

#[test]
fn max_stale_is_how_long_known_tokens_outlive_the_store() {
    let mut postgres = Postgres::start();
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .on(&Store::Url(postgres.new_database()))
        .with(
            json!({"auth": {"max_stale": "10s", "store_timeout": "300ms"}, "database": {"timeout": "300ms"}}),
        )
        .start();
    let user = edge.token(json!({}));
    // the news of its own making may come after its first use, and then it is read once more
    for _ in 0..3 {
        user.chat("gpt-a").expect(200);
        std::thread::sleep(Duration::from_millis(200));
    }
    postgres.stop();
    user.chat("gpt-a").expect(200);
    assert!(wait_until(Duration::from_secs(30), || user.chat("gpt-a").code()
        == "store_unavailable"));
}

#[test]
fn database_driver_url_pool_size_and_listen_url_choose_the_connections() {
    let postgres = Postgres::shared();
    let url = postgres.new_database();
    let name = Postgres::name_in(&url).to_owned();
    let named = |application: &str| {
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}application_name={application}")
    };
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"database": {"driver": "postgres", "url": named("pooled"), "listen_url": named("listening"), "pool_size": 2}}))
        .start();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| edge.token(json!({})).chat("gpt-a").expect(200));
        }
    });
    let count = |application: &str| {
        let question = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = '{application}'"
        );
        postgres
            .sql("postgres", &question)
            .trim()
            .parse::<u32>()
            .expect("a number")
    };
    assert!((1..=2).contains(&count("pooled")), "{}", count("pooled"));
    assert_eq!(count("listening"), 1);
}

#[test]
fn required_encryption_ends_a_start_without_a_key() {
    let provider = Provider::start();
    let output = TestEdge::plan(&provider)
        .with(json!({"encryption": {"required": true}}))
        .fails();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("`encryption.key`: is required"), "{said}");
}

#[test]
fn ca_file_and_http2_decide_whom_and_how_a_provider_is_called() {
    let (url, agreed) = tls_provider();
    let authority = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/upstream/target/localhost_ca.pem"
    );
    let plan = |openai: Value| {
        TestEdge::plan(&Provider::start())
            .with(json!({"router": {"retries": 0}, "providers": {"openai": {"base_url": url}}}))
            .with(json!({"providers": {"openai": openai}}))
            .start()
    };
    let strangers = plan(json!({"connection": {"http2": "never"}}));
    strangers
        .token(json!({}))
        .chat("gpt-a")
        .refused(502, "upstream_unreachable");
    let plain = plan(json!({"ca_file": authority, "connection": {"http2": "never"}}));
    plain.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(
        agreed.lock().expect("agreed").last(),
        Some(&Some(b"http/1.1".to_vec()))
    );
    let modern = plan(json!({"ca_file": authority}));
    // this fake agrees on HTTP/2 and then says nothing
    modern.token(json!({})).chat("gpt-a");
    assert!(agreed.lock().expect("agreed").contains(&Some(b"h2".to_vec())));
}

#[test]
fn api_keys_are_keys_with_ids() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"providers": {"openai": {"api_key": null, "api_keys": [{"id": "first", "key": "sk-pooled-key-0123456789"}]}}}))
        .start();
    edge.token(json!({})).chat("gpt-a").expect(200);
    assert_eq!(
        provider.last().header("authorization"),
        Some("Bearer sk-pooled-key-0123456789")
    );
}

#[test]
fn allowed_methods_of_a_provider_are_the_only_ones() {
    let (_provider, _edge, user) = start(json!({"providers": {
        "openai": {"allowed_methods": ["POST"]}, "anthropic": {"allowed_methods": ["POST"]},
    }}));
    let refused = user.get("/v1/files").refused(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("POST"));
    user.chat("gpt-a").expect(200);
}

#[test]
fn max_idle_conns_bounds_what_is_kept_for_later() {
    for (key, kept) in [
        ("max_idle_conns", 1),
        ("max_idle_conns_per_host", 1),
        ("max_idle_conns", 100),
    ] {
        let (provider, _edge, user) = start(json!({"providers": {"openai": {"connection": {key: kept}}}}));
        let burst = || {
            let gate = crate::provider::Gate::new();
            provider.always(Reply::json(200, &json!({})).head_behind(&gate));
            let before = provider.count();
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| user.chat("gpt-a").expect(200));
                }
                provider.wait_for_requests(before + 6);
                gate.open();
            });
            std::thread::sleep(Duration::from_millis(100));
        };
        burst();
        burst();
        let connections = provider.connections();
        assert_eq!(
            connections > 7,
            kept == 1,
            "{key} {kept}: {connections} connections for two bursts of 6"
        );
    }
}

#[test]
fn windows_of_models_are_shown() {
    let (_provider, edge, _) = start(json!({"models": {"voice": {
        "context_window": 128_000, "max_output_tokens": 4096, "targets": [{"provider": "openai", "model": "gpt-a"}],
    }}}));
    let models = edge.admin().get("/manage/models").expect(200).json();
    assert_eq!(
        (&models[0]["context_window"], &models[0]["max_output_tokens"]),
        (&json!(128_000), &json!(4096))
    );
}

#[test]
fn cooldown_max_ends_a_pause_that_grows() {
    let cooldown = json!({"failures": 1, "duration": "300ms", "max": "400ms"});
    let (provider, _edge, user) = start(json!({"router": {"retries": 0, "cooldown": cooldown}}));
    for _ in 0..5 {
        provider.next(Reply::openai_error(500, "server_error", "broken"));
        assert!(wait_until(Duration::from_secs(4), || user.chat("gpt-a").status == 500));
    }
    // a sixteenfold pause without the bound
    let from = std::time::Instant::now();
    assert!(wait_until(Duration::from_secs(8), || user.chat("gpt-a").status == 200));
    assert!(
        from.elapsed() < Duration::from_millis(1500),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn default_ttl_max_size_and_stream_responses_bound_the_cache() {
    let public = |user: &TokenUser, body: Value| {
        let request = Request::new("POST", CHAT)
            .header("Cache-Control", "public")
            .json(&body);
        user.send(request)
            .expect(200)
            .header("x-proxy-cache")
            .unwrap_or("")
            .to_owned()
    };
    let (_provider, _edge, user) = start(json!({"cache": {"default_ttl": "1s"}}));
    assert_eq!(public(&user, chat("gpt-a")), "stored");
    assert_eq!(public(&user, chat("gpt-a")), "hit");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(public(&user, chat("gpt-a")), "stored");
    assert_eq!(public(&user, chat_streamed("gpt-a")), "stored");

    let (_provider, _edge, user) = start(json!({"cache": {"stream_responses": false}}));
    assert_eq!(public(&user, chat_streamed("gpt-a")), "miss");

    let (provider, edge, user) = start(json!({"cache": {"max_size": "2MiB"}}));
    provider.always(Reply::json(200, &json!({"x": "x".repeat(500_000)})));
    for index in 0..8 {
        assert_eq!(public(&user, chat(&format!("gpt-{index}"))), "stored");
    }
    let stats = edge.admin().get("/manage/cache").expect(200).json();
    assert!(
        stats["bytes"].as_u64().is_some_and(|bytes| bytes <= 2 << 20),
        "{stats}"
    );
    assert!(
        stats["entries"]
            .as_u64()
            .is_some_and(|entries| (1..8).contains(&entries)),
        "{stats}"
    );
    assert_eq!(
        (&stats["max_bytes"], &stats["backend"]),
        (&json!(2 << 20), &json!("memory"))
    );
}

#[test]
fn audit_goes_to_the_file_and_the_store_that_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trail.jsonl");
    let (_provider, mut edge, _) = start(json!({"audit": {
        "file": file, "store_in_database": false, "max_size": "64KiB", "max_backups": 2,
    }}));
    assert_eq!(
        edge.admin().get("/manage/audit").expect(200).json()["events"],
        json!([])
    );
    let long = "x".repeat(4000);
    for index in 0..1200 {
        edge.admin()
            .get(&format!("/manage/projects/{index}?{long}"))
            .expect(404);
    }
    edge.stop();
    let text = std::fs::read_to_string(&file).expect("the file");
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    let rotated = std::fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(rotated, 3, "the file and its two backups");
    let (_provider, edge, _) = start(json!({"audit": {"enabled": false}}));
    let events = edge.admin().get("/manage/audit");
    assert!(
        events.status == 503 || events.json()["events"] == json!([]),
        "{}",
        events.text()
    );
}

#[test]
fn cors_answers_what_was_configured() {
    let (_provider, edge, _) = start(json!({"cors": {
        "allowed_origins": ["https://a.example"], "allowed_methods": ["POST"], "allowed_headers": ["x-one"], "max_age": "90s",
    }}));
    let preflight = |origin: &str| {
        edge.anonymous().send(
            Request::new("OPTIONS", CHAT)
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "POST")
                .header("Access-Control-Request-Headers", "x-one, x-two"),
        )
    };
    let answer = preflight("https://a.example").expect(204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-one"));
    assert_eq!(answer.header("access-control-max-age"), Some("90"));
    assert_eq!(
        preflight("https://b.example")
            .expect(204)
            .header("access-control-allow-origin"),
        None
    );
}

#[test]
fn logs_have_the_format_the_file_and_the_size_that_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("proxy.log");
    let (_provider, mut edge, user) = start(json!({"logging": {
        "format": "text", "file": file, "level": "info", "max_size": "1MiB", "max_backups": 1,
    }}));
    user.chat("gpt-a").expect(200);
    assert!(wait_until(Duration::from_secs(5), || std::fs::read_to_string(
        &file
    )
    .is_ok_and(|text| text.contains("/v1/chat"))));
    let text = std::fs::read_to_string(&file).expect("the file");
    assert!(text.lines().all(|line| !line.starts_with('{')), "{text}");
    for _ in 0..9000 {
        user.chat("gpt-a");
        if std::fs::read_dir(folder.path()).expect("the folder").count() > 1 {
            break;
        }
    }
    edge.stop();
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 2);
    let (_provider, edge, user) = start(json!({"logging": {"access_log": false}}));
    user.chat("gpt-a").expect(200);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!edge.logs().contains("llm_proxy::access"), "{}", edge.logs());
}

#[test]
fn concurrency_is_bounded_for_all_an_address_a_token_and_a_project() {
    for limits in [
        json!({"global": {"concurrency": 1}}),
        json!({"per_ip": {"concurrency": 1}}),
        json!({"default_token": {"concurrency": 1}}),
        json!({"default_project": {"concurrency": 1}}),
    ] {
        let (provider, _edge, user) = start(json!({"limits": limits}));
        let gate = crate::provider::Gate::new();
        provider.always(Reply::json(200, &json!({})).head_behind(&gate));
        std::thread::scope(|scope| {
            let held = scope.spawn(|| user.chat("gpt-a"));
            provider.wait_for_requests(1);
            let refused = user.chat("gpt-a").refused(429, "rate_limit_exceeded");
            assert_eq!(refused.header("retry-after"), Some("1"), "{limits}");
            gate.open();
            held.join().expect("no panic").expect(200);
        });
        user.chat("gpt-a").expect(200);
    }
}

#[test]
fn distributed_limits_live_in_redis_under_their_prefix_and_wait_for_it_so_long() {
    let redis = Redis::start();
    let keys = || redis.say("KEYS *");
    let with = |limits: Value, timeout: &str| {
        let (_, edge, _) = start(
            json!({"redis": {"url": redis.url(), "timeout": timeout}, "limits": {"distributed": limits}}),
        );
        let user = edge.token(json!({"limits": {"rpm": 1000}}));
        user.chat("gpt-a").expect(200);
        (edge, user)
    };
    drop(with(json!({"enabled": false}), "50ms"));
    assert!(!keys().contains("rate"), "{}", keys());
    let patient = with(json!({"enabled": true, "prefix": "gate-seven:"}), "1s");
    assert!(keys().contains("gate-seven:"), "{}", keys());
    let hasty = with(json!({"enabled": true}), "50ms");
    redis.say("CLIENT PAUSE 4000 ALL");
    let waited = |(_, user): &(TestEdge, TokenUser)| user.chat("gpt-a").expect(200).elapsed;
    let (hasty, patient) = (waited(&hasty), waited(&patient));
    assert!(hasty < Duration::from_millis(700), "{hasty:?}");
    assert!(
        patient > Duration::from_millis(800) && patient < Duration::from_secs(3),
        "{patient:?}"
    );
}

#[test]
fn metrics_enabled_is_whether_there_are_any() {
    let (_provider, edge, _) = start(json!({"management": {"metrics": {"enabled": false}}}));
    edge.sidecar().get("/metrics").expect(404);
    let (_provider, edge, _) = start(json!({}));
    edge.sidecar().get("/metrics").expect(200);
}

#[test]
fn audit_retention_is_how_long_the_store_keeps_events() {
    let (_provider, mut edge, _) = start(json!({"audit": {"retention": "1d"}}));
    let actions = |edge: &TestEdge| {
        edge.admin()
            .get("/manage/audit?action=project.create")
            .expect(200)
            .json()["events"]
            .clone()
    };
    assert!(!actions(&edge).as_array().expect("a list").is_empty());
    edge.stop();
    let database = rusqlite::Connection::open(edge.database_path()).expect("the database");
    database
        .execute("UPDATE audit_events SET timestamp = timestamp - 172800000000", [])
        .expect("older events");
    drop(database);
    edge.start_again();
    assert!(wait_until(Duration::from_secs(20), || actions(&edge) == json!([])));
}
