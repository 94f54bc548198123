use std::collections::BTreeMap;
use std::path::Path;

use std::time::Duration;

use super::*;
use crate::config::{Http2, LogFormat, RateFallback, diff, show};
use crate::domain::{Dialect, Limits};

const TOKEN: (&str, &str) = ("MANAGEMENT_TOKEN", "a-management-token-for-tests");

fn load_in(folder: &Path, yaml: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    std::fs::write(folder.join("edge.yaml"), yaml).unwrap();
    let env: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    load(&LoadRequest {
        file: FileChoice::Path("edge.yaml".into()),
        env: &env,
        cwd: folder.to_owned(),
        needs_management_token: true,
    })
}

fn load_with(yaml: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), yaml, &[&[TOKEN], variables].concat())
}

fn settings(yaml: &str) -> Settings {
    load_with(yaml, &[]).unwrap().settings
}

fn refusal(yaml: &str, variables: &[(&str, &str)]) -> String {
    load_with(yaml, variables).unwrap_err().to_string()
}

#[test]
fn nothing_set_gives_the_defaults() {
    let mut expected = Settings::default();
    expected.management.token = Some("a-management-token-for-tests".to_owned().into());
    assert_eq!(settings(""), expected);
}

#[test]
fn a_small_file_is_read() {
    let loaded = load_with(
        "server: {listen: ['127.0.0.1:9000', '[::1]:9000'], max_request_size: 10MiB}\n\
         providers:\n  groq: {base_url: https://api.groq.com/openai/v1, api_key: gsk-x}\n\
         models:\n  fast:\n    targets: [{provider: groq, model: llama, weight: 3}, {provider: openai, model: gpt-4o}]\n\
         limits: {global: {rpm: 600, concurrency: 10}}\n",
        &[],
    )
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.server.listen.len(), 2);
    assert_eq!(settings.server.max_request_bytes, 10 << 20);
    assert_eq!(settings.default_provider, "groq", "the only provider of the file");
    let names: Vec<&str> = settings
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(names, ["groq", "openai", "anthropic"]);
    assert_eq!(settings.providers[0].base_url.path, "/openai/v1");
    assert_eq!(settings.models[0].targets[0].weight, 3);
    assert_eq!(settings.limits.global.rpm.unwrap().get(), 600);
    assert!(settings.limits.per_ip.is_unlimited());
    assert!(loaded.inactive_keys.is_empty());
}

#[test]
fn providers_merge_over_the_built_in_ones_and_null_removes() {
    let settings = settings("providers: {anthropic: null, openai: {api_key: sk-x}}\n");
    assert_eq!(settings.providers.len(), 1);
    assert_eq!(settings.providers[0].base_url.host, "api.openai.com");
    assert_eq!(settings.providers[0].api_keys[0].key.expose(), "sk-x");
    let text = refusal("providers: {openai: null}\n", &[]);
    assert!(
        text.contains("`default_provider`: is missing, and `openai` is removed; write one of `anthropic`"),
        "{text}"
    );
}

#[test]
fn demo_needs_no_address() {
    let settings = settings("providers: {demo: {}}\n");
    assert_eq!(settings.providers[0].dialect, Dialect::Demo);
    assert_eq!(settings.default_provider, "demo");
}

#[test]
fn every_fault_is_listed_at_once() {
    let errors = load_with(
        "sever: {}\nserver:\n  request_timeout: soon\n  max_headers: 9999\nlimits: {global: {rpm: 0}}\n",
        &[("PORT", "x")],
    )
    .unwrap_err();
    assert_eq!(errors.faults.len(), 5, "{errors}");
    assert_eq!(errors.faults[0].line, Some(1));
    let text = errors.to_string();
    assert!(
        text.starts_with(
            "edge.yaml:1:1: unknown key `sever`; did you mean `server`?\n  1 | sever …\n    | ^"
        ),
        "{text}"
    );
    assert!(
        text.contains("edge.yaml:3:20: `server.request_timeout`: `soon` is no duration"),
        "{text}"
    );
}

#[test]
fn a_plain_scalar_is_typed_after_interpolation_and_a_quoted_one_stays_a_string() {
    let variables = [("N", "7"), ("LEVEL", "debug"), ("NAME", "2024")];
    let yaml = "router: {retries: '${N}'}\n";
    assert!(refusal(yaml, &variables).contains("is a string; write the number without quotes"));
    let loaded = load_with(
        "router: {retries: \"$${N}\"}\nlogging: {level: \"${LEVEL}\"}\n",
        &variables,
    );
    assert!(loaded.unwrap_err().to_string().contains("`$${N}` is a string"));
    let loaded = load_with(
        "router:\n  retries: ${N}\nlogging: {level: \"${LEVEL}\"}\nproviders:\n  openai:\n    api_key: ${NAME}\n\
         unknown_models: ${MISSING:-reject}\nserver:\n  max_concurrent_requests: ${EMPTY:-}\n",
        &variables,
    )
    .unwrap();
    assert_eq!(loaded.settings.router.retries, 7);
    assert_eq!(loaded.settings.logging.level, log::LevelFilter::Debug);
    assert_eq!(loaded.settings.unknown_models, UnknownModels::Reject);
    assert_eq!(loaded.settings.server.max_concurrent_requests, None);
    assert_eq!(loaded.settings.providers[0].api_keys[0].key.expose(), "2024");
}

#[test]
fn an_unset_variable_is_one_fault_with_its_place() {
    let text = refusal("server:\n  request_timeout: ${TIMOUT}\n", &[("TIMEOUT", "5s")]);
    assert!(
        text.starts_with("edge.yaml:2:20: `server.request_timeout`: variable `TIMOUT` is not set"),
        "{text}"
    );
    assert!(text.contains("`TIMEOUT` is set, was that meant?"), "{text}");
    assert_eq!(text.matches("edge.yaml").count(), 1, "{text}");
}

#[test]
fn a_secret_file_is_read_watched_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-from-file\n").unwrap();
    let yaml = "providers: {openai: {api_key: '${file:key}'}}\nlogging: {level: '${file:key}'}\n";
    let text = load_in(folder.path(), yaml, &[TOKEN]).unwrap_err().to_string();
    assert!(
        text.contains("[file] is not known here") && !text.contains("sk-from"),
        "{text}"
    );
    let yaml = "providers: {openai: {api_key: '${file:key}'}}\n";
    let loaded = load_in(folder.path(), yaml, &[TOKEN]).unwrap();
    assert_eq!(
        loaded.settings.providers[0].api_keys[0].key.expose(),
        "sk-from-file"
    );
    assert!(loaded.watched_files.contains(&folder.path().join("key")));
    assert_eq!(show(&loaded)["providers"]["openai"]["api_key"], "[file]");
    let yaml = "providers: {openai: {api_key: '${file:gone}'}}\n";
    let text = load_in(folder.path(), yaml, &[TOKEN]).unwrap_err().to_string();
    assert!(text.contains("no such file"), "{text}");
}

#[test]
fn variables_override_the_file() {
    let loaded = load_with(
        "server: {listen: ':1', request_timeout: 5s}\nproviders: {openai: {api_key: from-file}}\n",
        &[
            ("LISTEN_ADDR", "127.0.0.1:2,[::1]:2"),
            ("REQUEST_TIMEOUT", "7s"),
            ("OPENAI_API_KEY", "from-variable"),
            ("OPENAI_API_URL", "http://127.0.0.1:9/v1"),
            ("GLOBAL_RATE_LIMIT", "100"),
            ("HTTP_CACHE_ENABLED", "No"),
            ("HTTP_CACHE_BACKEND", "in-memory"),
            ("LOG_LEVEL", "DEBUG"),
            ("LOG_FORMAT", "console"),
            ("LOG_MAX_SIZE_MB", "10"),
            ("CORS_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
            ("REDIS_ADDR", "cache:6379"),
            ("REDIS_DB", "2"),
            ("REDIS_PASSWORD", "p@ss"),
            ("DISTRIBUTED_RATE_LIMIT_MAX", "10"),
            ("DISTRIBUTED_RATE_LIMIT_WINDOW", "10s"),
            ("DISTRIBUTED_RATE_LIMIT_FALLBACK", "false"),
            ("MANAGEMENT_LISTEN_ADDR", ""),
            ("LITELLM_NUM_RETRIES", "3"),
            ("OBSERVABILITY_ENABLED", "1"),
        ],
    )
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.server.listen[0].to_string(), "127.0.0.1:2");
    assert_eq!(settings.server.request_timeout, Duration::from_secs(7));
    assert_eq!(settings.providers[0].api_keys[0].key.expose(), "from-variable");
    assert_eq!(settings.providers[0].base_url.port, 9);
    assert!(!settings.cache.enabled);
    assert_eq!(settings.logging.level, log::LevelFilter::Debug);
    assert_eq!(settings.logging.format, LogFormat::Text);
    assert_eq!(settings.logging.max_file_bytes, 10_000_000);
    assert_eq!(settings.cors.allowed_origins.len(), 2);
    assert_eq!(
        settings.redis.url.as_ref().unwrap().expose(),
        "redis://:p%40ss@cache:6379/2"
    );
    assert!(settings.limits.distributed.enabled, "auto, as there is a redis");
    assert_eq!(
        settings.limits.default_token,
        Limits {
            rpm: std::num::NonZeroU32::new(60),
            ..Limits::default()
        }
    );
    assert_eq!(settings.limits.distributed.fallback, RateFallback::Refuse);
    assert_eq!(settings.management.listen, None);
    assert_eq!(settings.router.retries, 3);
    assert_eq!(loaded.inactive_keys, ["events.enabled"]);
}

#[test]
fn bad_variables_are_refused_by_name() {
    for (name, value, part) in [
        (
            "REQUEST_TIMEOUT",
            "soon",
            "environment: variable `REQUEST_TIMEOUT`: `server.request_timeout`: `soon` is no duration",
        ),
        ("DB_DRIVER", "mysql", "`mysql` is not supported"),
        ("DATABASE_URL", "mysql://x/y", "`mysql://` is not supported here"),
        ("DATABASE_URL", "postgres://u:secret word@h/d", "malformed URL"),
        ("ADMIN_PASSWORD", "x", "sign in with MANAGEMENT_TOKEN"),
        ("DEFAULT_TOKEN_LIFETIME", "1h", "`duration_minutes`"),
        ("LLM_PROXY_ENFORCE_PROJECT_ACTIVE", "false", "always refused"),
        (
            "LLM_PROXY_EVENT_BUS",
            "redis-streams",
            "not supported in this version",
        ),
        ("BUDGET_PROFILE", "much", "write `test`, `prod` or `unlimited`"),
        ("ENABLE_TLS", "true", "not supported in this version"),
        ("ENABLE_TLS", "perhaps", "is no boolean"),
        ("HTTP_CACHE_BACKEND", "redis", "not supported in this version"),
        ("ENCRYPTION_KEY", "c2hvcnQ=", "32 bytes"),
        ("DEFAULT_API_PROVIDER", "opnai", "did you mean `openai`?"),
        ("DISTRIBUTED_RATE_LIMIT_MAX", "7x", "no whole number"),
        ("REDIS_URL", "localhost:6379", "is no URL"),
        ("CORS_MAX_AGE", "soon", "CORS_MAX_AGE"),
        ("MANAGEMENT_TOKEN_FILE", "/nowhere", "both set"),
        ("ENCRYPTION_KEY_FILE", "/nowhere", "no such file"),
    ] {
        let text = refusal("", &[(name, value)]);
        assert!(
            text.contains(part) && text.contains("environment"),
            "{name}={value}: {text}"
        );
        assert!(
            !text.contains("secret word") && !text.contains("c2hvcnQ"),
            "{text}"
        );
    }
}

#[test]
fn values_that_say_off_are_accepted_and_listed() {
    let loaded = load_with(
        "server: {tls: [], proxy_protocol: off, acme: null}\nbudgets: {installation: none}\n\
         ledger: {spool_max: 1073741824, retention: 9600h}\nprices: {overrides: {}}\ntracing:\n\
         limits: {global: {tpm: null}}\nrouter: {heartbeat: off, retry_budget: 0.20}\n",
        &[("BUDGET_PROFILE", "unlimited"), ("ENABLE_TLS", "false")],
    )
    .unwrap();
    assert_eq!(loaded.inactive_keys.len(), 4, "{:?}", loaded.inactive_keys);
    for yaml in [
        "events: {bus: redis-streams}",
        "server: {listen: 'unix:/run/x'}",
        "server: {tls: [{cert_file: a, key_file: b}]}",
        "cache: {backend: redis}",
        "events: {file: /tmp/x}",
    ] {
        assert!(
            refusal(yaml, &[]).contains("not supported in this version"),
            "{yaml}"
        );
    }
}

#[test]
fn some_variables_only_warn() {
    let loaded = load_with(
        "",
        &[
            ("API_ENV", "production"),
            ("https_proxy", "http://proxy"),
            ("LITELLM_MASTER_KEY", "sk-1"),
            ("POSTGRES_USER", "x"),
            ("POSTGRES_PASSWORD", "y"),
            ("ENV", "x"),
            ("MANAGEMENT_TOKEN", "short"),
        ],
    )
    .unwrap();
    let text = loaded.warnings.join("\n");
    for part in [
        "`API_ENV` has no effect",
        "`https_proxy` is not supported",
        "MANAGEMENT_TOKEN",
        "DATABASE_URL",
        "shorter than 20",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("POSTGRES_").count(), 1, "{text}");
    assert!(!text.contains("sk-1") && !text.contains("`ENV`"), "{text}");
}

#[test]
fn a_management_token_is_required_while_management_can_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let text = load_in(folder.path(), "", &[]).unwrap_err().to_string();
    assert!(
        text.contains("MANAGEMENT_TOKEN environment variable is required"),
        "{text}"
    );
    load_in(
        folder.path(),
        "management: {listen: '', on_proxy_listener: off}",
        &[],
    )
    .unwrap();
    load_in(
        folder.path(),
        "management: {tokens: [{name: a, token: aaaaaaaaaaaaaaaaaaaaa, role: admin}]}",
        &[],
    )
    .unwrap();
    let viewer = "management: {tokens: [{name: a, token: aaaaaaaaaaaaaaaaaaaaa, role: viewer}]}";
    assert!(load_in(folder.path(), viewer, &[]).is_err());
}

#[test]
fn the_old_provider_file_is_read_as_it_is() {
    let yaml = "default_api: openai\napis:\n  openai:\n    base_url: https://api.openai.com\n    \
                allowed_endpoints:\n      - /v1/chat/completions\n    allowed_methods: [GET, post]\n    \
                timeouts: {request: 300s, response_header: 30s, idle_connection: 90s, flush_interval: 100ms}\n    \
                connection: {max_idle_conns: 100, max_idle_conns_per_host: 20}\n    \
                param_whitelist:\n      model: [gpt-4o, gpt-4o-*]\n    allowed_origins: [https://a.example]\n    \
                required_headers: [Origin]\n";
    let loaded = load_with(yaml, &[]).unwrap();
    let provider = &loaded.settings.providers[0];
    assert_eq!(provider.allowed_methods, ["GET", "POST"]);
    assert_eq!(provider.required_headers, ["origin"]);
    assert_eq!(provider.connection.max_idle_connections, 100);
    assert_eq!(provider.param_whitelist[0].1.len(), 2);
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("flush_interval"))
    );
}

#[test]
fn a_named_provider_takes_its_key_from_its_variable() {
    let yaml = "providers:\n  my-groq: {base_url: https://api.groq.com}\n  other: {base_url: https://x, api_key: own}\n";
    let loaded = load_with(
        yaml,
        &[
            ("MY_GROQ_API_KEY", "k1"),
            ("OTHER_API_KEY", "k2"),
            ("ANTHROPIC_API_KEY", "k3"),
        ],
    )
    .unwrap();
    let key = |name: &str| {
        loaded.settings.provider(name).unwrap().api_keys[0]
            .key
            .expose()
            .to_owned()
    };
    assert_eq!(
        (key("my-groq"), key("other"), key("anthropic")),
        ("k1".into(), "own".into(), "k3".into())
    );
    let names: Vec<&str> = loaded
        .settings
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(names, ["my-groq", "other", "openai", "anthropic"]);
    assert_eq!(loaded.settings.default_provider, "openai");
}

#[test]
fn dotenv_fills_up_and_does_not_override() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "MANAGEMENT_TOKEN=from-the-dotenv-file-x\nREQUEST_TIMEOUT=9s\n",
    )
    .unwrap();
    let loaded = load_in(folder.path(), "", &[("REQUEST_TIMEOUT", "8s")]).unwrap();
    assert_eq!(loaded.settings.server.request_timeout, Duration::from_secs(8));
    assert_eq!(
        loaded.settings.management.token.unwrap().expose(),
        "from-the-dotenv-file-x"
    );
    assert!(loaded.watched_files.contains(&folder.path().join(".env")));
}

#[test]
fn the_file_is_found_by_argument_then_variable_then_place() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |file: FileChoice, variables: &[(&str, &str)]| {
        let env: BTreeMap<String, String> = [&[TOKEN], variables]
            .concat()
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        load(&LoadRequest {
            file,
            env: &env,
            cwd: folder.path().to_owned(),
            needs_management_token: true,
        })
    };
    assert_eq!(ask(FileChoice::Search, &[]).unwrap().path, None);
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    std::fs::write(folder.path().join("conf/llm-proxy.yaml"), "router: {retries: 1}").unwrap();
    std::fs::write(folder.path().join("a.yaml"), "router: {retries: 5}").unwrap();
    assert_eq!(ask(FileChoice::Search, &[]).unwrap().settings.router.retries, 1);
    assert_eq!(ask(FileChoice::Nothing, &[]).unwrap().settings.router.retries, 2);
    let both = [("API_CONFIG_PATH", "gone.yaml"), ("LLM_PROXY_CONFIG", "a.yaml")];
    assert_eq!(ask(FileChoice::Search, &both).unwrap().settings.router.retries, 5);
    let text = ask(FileChoice::Search, &both[..1]).unwrap_err().to_string();
    assert_eq!(text, "gone.yaml: cannot read the configuration: no such file");
}

#[test]
fn what_needs_a_new_process_is_named_and_left_as_it_was() {
    let old = load_with(
        "server: {listen: ':1', request_timeout: 5s}\nredis: {url: 'redis://a'}\n",
        &[],
    )
    .unwrap();
    let new = load_with("server: {listen: ':2', request_timeout: 6s, threads: 3}\nmodels: {\"a.b\": {targets: [{provider: openai, model: x}]}}\n", &[]).unwrap();
    let found = diff(&old, &new);
    assert_eq!(
        found.process_only,
        ["redis.url", "server.listen", "server.threads"]
    );
    assert_eq!(found.changed.len(), 5, "{found:?}");
    assert!(
        found.changed.contains(&"models.\"a.b\".targets".to_owned()),
        "{found:?}"
    );
    let pinned = new.pinned_to(&old).unwrap();
    assert_eq!(pinned.settings.server.listen, old.settings.server.listen);
    assert_eq!(pinned.settings.server.threads, old.settings.server.threads);
    assert_eq!(pinned.settings.redis, old.settings.redis);
    assert_eq!(pinned.settings.server.request_timeout, Duration::from_secs(6));
    assert!(diff(&new, &new).is_empty());
    assert!(diff(&old, &pinned).process_only.is_empty());
}

#[test]
fn no_secret_is_shown() {
    let secrets = [
        "sk-one-secret",
        "sk-two-secret",
        "bearer-secret",
        "db-secret",
        "header-secret",
        "redis-secret",
        "listen-secret",
    ];
    let yaml = "management: {tokens: [{name: a, token: bearer-secret, role: viewer}]}\n\
                database: {url: 'postgres://u:db-secret@h/d?sslmode=require&password=db-secret', listen_url: 'postgres://u:listen-secret@h/d'}\n\
                redis: {url: 'redis://:redis-secret@h:1/0'}\n\
                providers: {openai: {api_key: sk-one-secret, headers: {X-Own: header-secret}}, anthropic: {api_keys: [{id: a, key: sk-two-secret}]}}\n";
    let loaded = load_with(yaml, &[]).unwrap();
    let mut text = show(&loaded).to_string() + &crate::config::show_yaml(&loaded) + &format!("{loaded:?}");
    let broken = format!(
        "{}\nrouter: {{retries: x}}\n",
        yaml.replace("role: viewer", "rol: viewer")
            .replace("api_key:", "api_kye:")
    );
    text += &refusal(&broken, &[]);
    text += &refusal(
        &yaml
            .replace("postgres://u", "mysql://u")
            .replace("X-Own", "Bad Name"),
        &[],
    );
    text += &refusal(
        &yaml
            .replace("redis://", "redis//")
            .replace("sk-one-secret", "[sk-one-secret]"),
        &[],
    );
    text += &refusal(&yaml.replace("sk-one-secret", "\"sk-one-secret"), &[]);
    for secret in secrets {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let shown = show(&loaded);
    assert_eq!(
        shown["database"]["url"],
        "postgres://[redacted]@h/d?sslmode=require&password=[redacted]"
    );
    assert_eq!(shown["server"]["request_timeout"], "600s");
    assert_eq!(
        shown["providers"]["openai"]["timeouts"]["response_header"],
        "600s"
    );
    assert_eq!(shown["management"]["tokens"][0]["name"], "a");
}

#[test]
fn a_new_provider_brings_its_own_pool_without_a_new_process() {
    let old = load_with("providers: {openai: {connection: {http2: auto}}}\n", &[]).unwrap();
    let yaml = "providers:\n  openai: {connection: {http2: never}}\n  x: {base_url: 'https://x', connection: {max_idle_conns: 5}}\n";
    let new = load_with(yaml, &[]).unwrap();
    assert_eq!(
        diff(&old, &new).process_only,
        ["providers.openai.connection.http2"]
    );
    let pinned = new.pinned_to(&old).unwrap();
    assert_eq!(
        pinned
            .settings
            .provider("x")
            .unwrap()
            .connection
            .max_idle_connections,
        5
    );
    assert_eq!(
        pinned.settings.provider("openai").unwrap().connection.http2,
        Http2::Auto
    );
}

#[test]
fn a_default_that_is_written_out_needs_no_new_process() {
    let (old, new) = (
        load_with("", &[]).unwrap(),
        load_with("server: {listen: ':8080'}\n", &[]).unwrap(),
    );
    assert!(diff(&old, &new).process_only.is_empty());
}

#[test]
fn every_active_key_is_read_by_somebody() {
    for key in crate::config::schema::keys().filter(|key| key.active && !key.path.contains("[]")) {
        if key.path.ends_with('>') {
            continue;
        }
        let path = key.path.replace("<name>", "some");
        let mut yaml = String::new();
        for (depth, part) in path.split('.').enumerate() {
            yaml.extend(["  ".repeat(depth).as_str(), part, ":\n"]);
        }
        yaml.extend(["  ".repeat(path.split('.').count()).as_str(), "{wrong: 1}\n"]);
        let folder = tempfile::tempdir().unwrap();
        let errors = load_in(folder.path(), &yaml, &[]).unwrap_err();
        let found = errors
            .faults
            .iter()
            .any(|fault| fault.key.as_deref() == Some(&path));
        assert!(found, "`{path}` can be anything: {errors}");
    }
}

#[test]
fn an_unset_management_token_is_named_as_people_search_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = load_in(folder.path(), "management:\n  token: ${MANAGEMENT_TOKEN}\n", &[])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("MANAGEMENT_TOKEN environment variable is required"),
        "{text}"
    );
    let text = load_in(folder.path(), "management:\n  token: 'a b'\n", &[])
        .unwrap_err()
        .to_string();
    assert!(!text.contains("is required"), "{text}");
}

#[test]
fn budgets_are_read_from_the_file_and_from_the_profile() {
    use crate::domain::{Budget, BudgetPeriod};
    let budget = |nano_usd, period| Some(Budget { nano_usd, period });
    let loaded = load_with(
        "budgets: {installation: none, default_project: {usd: 0.000000001, period: week}, default_token: {usd: 0}}",
        &[],
    )
    .unwrap();
    let budgets = loaded.settings.budgets;
    assert_eq!(budgets.installation, None);
    assert_eq!(budgets.default_project, budget(1, BudgetPeriod::Week));
    assert_eq!(budgets.default_token, budget(0, BudgetPeriod::Month));
    for (profile, dollars) in [("test", Some(15)), ("prod", Some(200)), ("unlimited", None)] {
        let loaded = load_with("", &[("BUDGET_PROFILE", profile)]).unwrap();
        let expected = dollars.and_then(|dollars: i64| budget(dollars * 1_000_000_000, BudgetPeriod::Month));
        assert_eq!(loaded.settings.budgets.installation, expected, "{profile}");
    }
    let yaml = "budgets: {installation: {usd: 3, period: day}}";
    let loaded = load_with(yaml, &[("BUDGET_PROFILE", "test")]).unwrap();
    assert_eq!(
        loaded.settings.budgets.installation,
        budget(3_000_000_000, BudgetPeriod::Day)
    );
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("BUDGET_PROFILE"))
    );
    for (wrong, part) in [
        ("{usd: -1}", "is no amount"),
        ("{usd: 1000000001}", "is more than"),
        ("{period: day}", "is missing"),
        ("{usd: 1, period: year}", "write `day`"),
        ("much", "must be a mapping"),
    ] {
        let text = refusal(&format!("budgets: {{default_token: {wrong}}}"), &[]);
        assert!(text.contains(part), "{wrong}: {text}");
    }
}

#[test]
fn keys_of_a_provider_have_names_and_limits() {
    let yaml = "providers: {openai: {api_keys: [sk-a, {key: sk-b}, {id: gold, key: sk-c, limits: {rpm: 5, tpm: 7}}]}}";
    let settings = settings(yaml);
    let keys: Vec<_> = settings.providers[0]
        .api_keys
        .iter()
        .map(|key| (key.id.as_str(), key.rpm, key.tpm))
        .collect();
    assert_eq!(
        keys,
        [
            ("key-1", None, None),
            ("key-2", None, None),
            ("gold", Some(5), Some(7))
        ]
    );
    for (yaml, said) in [
        (
            "providers: {openai: {api_keys: [{id: a, key: x}, {id: a, key: y}]}}",
            "another key",
        ),
        (
            "providers: {openai: {api_keys: [{id: 'a b', key: x}]}}",
            "no name for a key",
        ),
        (
            "providers: {openai: {api_keys: [{id: project, key: x}]}}",
            "no name for a key",
        ),
        (
            "models: {m: {targets: [{provider: openai, model: x}], fallbacks: [y]}}",
            "none of `models`",
        ),
        (
            "models: {m: {targets: [{provider: openai, model: x}], fallbacks: [cheep]}, cheap: {targets: [{provider: openai, model: x}]}}",
            "did you mean `cheap`?",
        ),
        (
            "models: {m: {targets: [{provider: openai, model: x}], fallbacks: [m]}}",
            "the model itself",
        ),
        ("router: {heartbeat: 1ms}", "heartbeat"),
        ("router: {retry_budget: -1}", "is no share"),
        ("router: {retry_budget: 0.12345}", "is no share"),
        ("router: {retry_ambiguous: perhaps}", "retry_ambiguous"),
    ] {
        assert!(
            refusal(yaml, &[]).contains(said),
            "{yaml}: {}",
            refusal(yaml, &[])
        );
    }
}
