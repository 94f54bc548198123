//! Environment variables: which key each overrides, which are refused, and which have no effect.

use super::environment::Environment;
use super::error::Faults;
use super::interpolate::read_secret_file;
use super::tree::{Node, Place, Value};
use super::units::parse_duration;

/// One variable that overrides a key.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key it overrides.
    pub key: &'static str,
    /// How its value is written.
    pub form: Form,
    /// Whether `<NAME>_FILE` may name a file that holds the value.
    pub from_file: bool,
}

/// How a variable's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As in the file.
    Same,
    /// Items with commas between them.
    Commas,
    /// Megabytes without a unit.
    Megabytes,
    /// A duration, or seconds without a unit.
    Seconds,
    /// `in-memory` is `memory`.
    CacheBackend,
    /// `true` is `local`, `false` is `refuse`.
    Fallback,
    /// Empty is a value of its own.
    EmptyToo,
}

const fn variable(name: &'static str, key: &'static str) -> Variable {
    Variable {
        name,
        key,
        form: Form::Same,
        from_file: false,
    }
}

impl Variable {
    const fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    const fn or_file(self) -> Self {
        Self {
            from_file: true,
            ..self
        }
    }
}

/// Every variable that overrides exactly one key. Of two for one key the first one wins.
pub const VARIABLES: &[Variable] = &[
    variable("MANAGEMENT_TOKEN", "management.token").or_file(),
    variable("LISTEN_ADDR", "server.listen").form(Form::Commas),
    variable("MANAGEMENT_LISTEN_ADDR", "management.listen").form(Form::EmptyToo),
    variable("ADMIN_UI_LISTEN_ADDR", "management.listen"),
    variable("MANAGEMENT_ON_PROXY_LISTENER", "management.on_proxy_listener"),
    variable("REQUEST_TIMEOUT", "server.request_timeout"),
    variable("LITELLM_REQUEST_TIMEOUT", "server.request_timeout").form(Form::Seconds),
    variable("MAX_REQUEST_SIZE", "server.max_request_size"),
    variable("MAX_CONCURRENT_REQUESTS", "server.max_concurrent_requests"),
    variable("TLS_MIN_VERSION", "server.tls_min_version"),
    variable("DEFAULT_API_PROVIDER", "default_provider"),
    variable("OPENAI_API_URL", "providers.openai.base_url"),
    variable("OPENAI_API_KEY", "providers.openai.api_key").or_file(),
    variable("ANTHROPIC_API_KEY", "providers.anthropic.api_key").or_file(),
    variable("LITELLM_NUM_RETRIES", "router.retries"),
    variable("DB_DRIVER", "database.driver"),
    variable("DATABASE_PATH", "database.path"),
    variable("DATABASE_URL", "database.url").or_file(),
    variable("DATABASE_POOL_SIZE", "database.pool_size"),
    variable("ENCRYPTION_KEY", "encryption.key").or_file(),
    variable("REQUIRE_ENCRYPTION_KEY", "encryption.required"),
    variable("REDIS_URL", "redis.url").or_file(),
    variable("GLOBAL_RATE_LIMIT", "limits.global.rpm"),
    variable("IP_RATE_LIMIT", "limits.per_ip.rpm"),
    variable("DISTRIBUTED_RATE_LIMIT_ENABLED", "limits.distributed.enabled"),
    variable("DISTRIBUTED_RATE_LIMIT_PREFIX", "limits.distributed.prefix"),
    variable("DISTRIBUTED_RATE_LIMIT_FALLBACK", "limits.distributed.fallback").form(Form::Fallback),
    variable("HTTP_CACHE_ENABLED", "cache.enabled"),
    variable("HTTP_CACHE_BACKEND", "cache.backend").form(Form::CacheBackend),
    variable("HTTP_CACHE_DEFAULT_TTL", "cache.default_ttl").form(Form::Seconds),
    variable("HTTP_CACHE_MAX_OBJECT_BYTES", "cache.max_object_bytes"),
    variable("HTTP_CACHE_STREAM_RESPONSES", "cache.stream_responses"),
    variable("REDIS_CACHE_URL", "cache.redis_url"),
    variable("REDIS_CACHE_KEY_PREFIX", "cache.key_prefix"),
    variable("LLM_PROXY_EVENT_BUS", "events.bus"),
    variable("OBSERVABILITY_ENABLED", "events.enabled"),
    variable("OBSERVABILITY_BUFFER_SIZE", "events.buffer_size"),
    variable(
        "OBSERVABILITY_MAX_REQUEST_BODY_BYTES",
        "events.capture_request_bytes",
    ),
    variable(
        "OBSERVABILITY_MAX_RESPONSE_BODY_BYTES",
        "events.capture_response_bytes",
    ),
    variable("FILE_EVENT_LOG", "events.file"),
    variable("REDIS_STREAM_KEY", "events.stream.key"),
    variable("REDIS_STREAM_MAX_LEN", "events.stream.max_len"),
    variable("REDIS_STREAM_BATCH_SIZE", "events.stream.batch_size"),
    variable("REDIS_STREAM_BLOCK_TIME", "events.stream.block_time"),
    variable("REDIS_STREAM_CLAIM_TIME", "events.stream.claim_time"),
    variable("REDIS_CONSUMER_GROUP", "events.stream.group"),
    variable("REDIS_CONSUMER_NAME", "events.stream.consumer"),
    variable("AUDIT_ENABLED", "audit.enabled"),
    variable("AUDIT_LOG_FILE", "audit.file"),
    variable("AUDIT_STORE_IN_DB", "audit.store_in_database"),
    variable("ENABLE_METRICS", "management.metrics.enabled"),
    variable("METRICS_PATH", "management.metrics.path"),
    variable("ADMIN_UI_ENABLED", "management.admin_ui.enabled"),
    variable("ADMIN_UI_PATH", "management.admin_ui.path"),
    variable("CORS_ALLOWED_ORIGINS", "cors.allowed_origins").form(Form::Commas),
    variable("CORS_ALLOWED_METHODS", "cors.allowed_methods").form(Form::Commas),
    variable("CORS_ALLOWED_HEADERS", "cors.allowed_headers").form(Form::Commas),
    variable("CORS_MAX_AGE", "cors.max_age").form(Form::Seconds),
    variable("LOG_LEVEL", "logging.level"),
    variable("LOG_FORMAT", "logging.format"),
    variable("LOG_FILE", "logging.file"),
    variable("LOG_MAX_SIZE_MB", "logging.max_size").form(Form::Megabytes),
    variable("LOG_MAX_BACKUPS", "logging.max_backups"),
];

/// Variables that are known and do nothing.
pub const NO_EFFECT: &[&str] = &[
    "API_ENV",
    "ENABLE_STREAMING",
    "LLM_PROXY_ENFORCE_PROJECT_ACTIVE",
    "LLM_PROXY_API_KEY_CACHE_TTL",
    "LLM_PROXY_API_KEY_CACHE_MAX",
    "LLM_PROXY_ACTIVE_CACHE_TTL",
    "LLM_PROXY_ACTIVE_CACHE_MAX",
    "CACHE_STATS_BUFFER_SIZE",
    "USAGE_STATS_BUFFER_SIZE",
    "TOKEN_CLEANUP_INTERVAL",
    "ADMIN_UI_TEMPLATE_DIR",
    "AUDIT_CREATE_DIR",
    "LOG_BINARY_RESPONSES",
    "REDIS_CACHE_POOL_SIZE",
    "REDIS_CACHE_TIMEOUT",
    "REDIS_SCAN_COUNT",
    "MASK_API_KEYS",
    "VALIDATE_API_KEY_FORMAT",
    "WORKER_POOL_SIZE",
    "DISTRIBUTED_RATE_LIMIT_KEY_SECRET",
    "DATABASE_MAX_IDLE_CONNS",
    "DATABASE_CONN_MAX_LIFETIME",
];

/// Variables that promise what nothing does, and what to do instead.
pub const REFUSED: &[(&str, &str)] = &[
    (
        "ADMIN_USER",
        "there is no user name; remove it and sign in with MANAGEMENT_TOKEN",
    ),
    (
        "ADMIN_PASSWORD",
        "there is no password; remove it and sign in with MANAGEMENT_TOKEN",
    ),
    (
        "DEFAULT_TOKEN_LIFETIME",
        "tokens have no default lifetime; remove it and give `duration_minutes` when a token is made",
    ),
    (
        "DEFAULT_TOKEN_REQUEST_LIMIT",
        "tokens have no default quota; remove it and give `max_requests` when a token is made",
    ),
];

/// Variables that are warned about at each start.
pub const PROXIES: &[&str] = &[
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "https_proxy",
    "http_proxy",
    "all_proxy",
];

/// Variables of another program, and what ours is called. A name that ends in `_` is a beginning.
pub const FOREIGN: &[(&str, &str)] = &[
    ("LITELLM_MASTER_KEY", "here it is MANAGEMENT_TOKEN"),
    ("VIRTUAL_KEY", "make a token with `llm-proxy manage token create`"),
    (
        "STORE_MODEL_IN_DB",
        "models stand under `models:` in the configuration",
    ),
    ("SET_VERBOSE", "here it is LOG_LEVEL=debug"),
    ("POSTGRES_", "here it is DATABASE_URL"),
    ("LITELLM_", "see `llm-proxy import` and the table of variables"),
];

/// Overlays the environment on what the file says.
pub(super) struct Overrides<'a> {
    pub environment: &'a Environment,
    pub faults: &'a Faults,
    pub warnings: &'a mut Vec<String>,
    /// Files that `_FILE` variables name.
    pub files: &'a mut Vec<std::path::PathBuf>,
}

impl Overrides<'_> {
    /// Puts every variable at its key, and judges those that have none.
    pub fn apply(&mut self, root: &mut Node) {
        let mut taken: Vec<(&str, &str)> = Vec::new();
        for variable in VARIABLES {
            let Some((name, value)) = self.value_of(variable) else {
                continue;
            };
            if let Some((_, winner)) = taken.iter().find(|(key, _)| *key == variable.key) {
                self.warnings
                    .push(format!("variable `{name}` has no effect: `{winner}` is set"));
                continue;
            }
            taken.push((variable.key, variable.name));
            self.set(root, variable, &name, value);
        }
        self.set_port(root);
        self.set_redis(root);
        self.set_token_rate(root);
        self.set_budget(root);
        self.set_tls(root);
        self.set_provider_keys(root);
        self.judge_the_rest();
    }

    /// The value of a variable or of the file that `<NAME>_FILE` names, with the name it came from.
    fn value_of(&mut self, variable: &Variable) -> Option<(String, String)> {
        let own = match variable.form {
            Form::EmptyToo => self.environment.get(variable.name),
            _ => self.environment.filled(variable.name),
        };
        let own = own.map(|value| (variable.name.to_owned(), value.to_owned()));
        if variable.from_file {
            self.own_or_file(variable.name, own)
        } else {
            own
        }
    }

    fn own_or_file(&mut self, name: &str, own: Option<(String, String)>) -> Option<(String, String)> {
        let file_name = format!("{name}_FILE");
        let Some(path) = self.environment.filled(&file_name) else {
            return own;
        };
        if own.is_some() {
            let message = format!("variables `{name}` and `{file_name}` are both set; keep one of them");
            self.faults.general("environment", message);
            return None;
        }
        self.files.push(path.into());
        match read_secret_file(path.as_ref()) {
            Ok(text) => Some((file_name, text)),
            Err(message) => {
                self.faults.general(
                    "environment",
                    format!("variable `{file_name}`: file `{path}`: {message}"),
                );
                None
            }
        }
    }

    fn set(&mut self, root: &mut Node, variable: &Variable, name: &str, value: String) {
        let path: Vec<&str> = variable.key.split('.').collect();
        if let ["providers", provider, key] = path[..] {
            if root.at(&["providers", provider]).is_some_and(Node::is_null) {
                self.warnings.push(format!(
                    "variable `{name}` has no effect: provider `{provider}` is removed in the file"
                ));
                return;
            }
            if key == "api_key" {
                root.remove(&["providers", provider, "api_keys"]);
            }
        }
        let node = match variable.form {
            Form::Commas => list(name, &value),
            Form::Megabytes => Node::variable(name, format!("{}MB", value.trim())),
            Form::Seconds if value.trim().parse::<u64>().is_ok() => {
                Node::variable(name, format!("{}s", value.trim()))
            }
            Form::CacheBackend if value.trim().eq_ignore_ascii_case("in-memory") => {
                Node::variable(name, "memory".to_owned())
            }
            Form::Fallback => match as_bool(&value) {
                Some(true) => Node::variable(name, "local".to_owned()),
                Some(false) => Node::variable(name, "refuse".to_owned()),
                None => Node::variable(name, value),
            },
            Form::Same | Form::EmptyToo | Form::Seconds | Form::CacheBackend => Node::variable(name, value),
        };
        root.set(&path, node);
    }

    fn set_port(&mut self, root: &mut Node) {
        let Some(port) = self.environment.filled("PORT") else {
            return;
        };
        if self.environment.filled("LISTEN_ADDR").is_none() {
            root.set(&["server", "listen"], list("PORT", &format!(":{}", port.trim())));
        }
    }

    fn set_redis(&mut self, root: &mut Node) {
        let own = self
            .environment
            .filled("REDIS_PASSWORD")
            .map(|v| ("REDIS_PASSWORD".to_owned(), v.to_owned()));
        let password = self.own_or_file("REDIS_PASSWORD", own).map(|(_, value)| value);
        let address = self.environment.filled("REDIS_ADDR");
        let has_url = self.environment.filled("REDIS_URL").is_some()
            || self.environment.filled("REDIS_URL_FILE").is_some();
        let Some(address) = address.filter(|_| !has_url) else {
            for name in ["REDIS_ADDR", "REDIS_DB", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE"] {
                if self.environment.filled(name).is_some() {
                    let reason = if has_url {
                        "`REDIS_URL` is set"
                    } else {
                        "`REDIS_ADDR` is not set"
                    };
                    self.warnings
                        .push(format!("variable `{name}` has no effect: {reason}"));
                }
            }
            return;
        };
        let database = self.environment.filled("REDIS_DB").unwrap_or("0").trim();
        if database.parse::<u16>().is_err() {
            self.faults.general(
                "environment",
                format!("variable `REDIS_DB`: `{database}` is no number of a database; write `0`"),
            );
            return;
        }
        let credential = password.map_or_else(String::new, |password| {
            let encoded =
                percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            format!(":{encoded}@")
        });
        let url = format!("redis://{credential}{}/{database}", address.trim());
        root.set(&["redis", "url"], Node::variable("REDIS_ADDR", url));
    }

    /// MAX requests per WINDOW for every token, as a rate a minute.
    fn set_token_rate(&mut self, root: &mut Node) {
        const MAX: &str = "DISTRIBUTED_RATE_LIMIT_MAX";
        const WINDOW: &str = "DISTRIBUTED_RATE_LIMIT_WINDOW";
        let window = self.environment.filled(WINDOW).unwrap_or("1m").trim();
        let Some(seconds) = parse_duration(window)
            .map(|window| window.as_secs())
            .filter(|seconds| *seconds > 0)
        else {
            self.faults.general(
                "environment",
                format!("variable `{WINDOW}`: `{window}` is no duration of a second or more; write `1m`"),
            );
            return;
        };
        let Some(max) = self.environment.filled(MAX).map(str::trim) else {
            return;
        };
        let rpm = max
            .parse::<u64>()
            .ok()
            .and_then(|max| max.checked_mul(60))
            .filter(|n| n.is_multiple_of(seconds));
        match rpm {
            Some(total) => root.set(&["limits", "default_token", "rpm"], Node::variable(MAX, (total / seconds).to_string())),
            None => self.faults.general(
                "environment",
                format!("variable `{MAX}`: `{max}` per `{window}` is no whole number of requests a minute; choose others, or set `limits.default_token.rpm`"),
            ),
        }
    }

    fn set_budget(&mut self, root: &mut Node) {
        let Some(profile) = self.environment.filled("BUDGET_PROFILE").map(str::trim) else {
            return;
        };
        let key = ["budgets", "installation"];
        let dollars = match profile {
            "test" => Some("15"),
            "prod" => Some("200"),
            "unlimited" => None,
            _ => {
                let message = format!(
                    "variable `BUDGET_PROFILE`: `{profile}` is not known; write `test`, `prod` or `unlimited`"
                );
                self.faults.general("environment", message);
                return;
            }
        };
        if root.at(&key).is_some_and(|node| !node.is_null()) {
            self.warnings.push(
                "variable `BUDGET_PROFILE` has no effect: `budgets.installation` is set in the file"
                    .to_owned(),
            );
        } else if let Some(dollars) = dollars {
            let of_profile = |value: &str| Node::variable("BUDGET_PROFILE", value.to_owned());
            root.set(&[key[0], key[1], "usd"], of_profile(dollars));
            root.set(&[key[0], key[1], "period"], of_profile("month"));
        }
    }

    fn set_tls(&mut self, root: &mut Node) {
        let enabled = self.environment.filled("ENABLE_TLS");
        let enabled_flag = enabled.map(as_bool);
        if enabled_flag == Some(None) {
            let found = enabled.unwrap_or_default();
            self.faults.general(
                "environment",
                format!("variable `ENABLE_TLS`: `{found}` is no boolean; write `true` or `false`"),
            );
            return;
        }
        let off = enabled_flag == Some(Some(false));
        for name in ["ENABLE_TLS", "TLS_CERT_FILE", "TLS_KEY_FILE"] {
            let Some(value) = self.environment.filled(name) else {
                continue;
            };
            let value = if off { "off".to_owned() } else { value.to_owned() };
            root.set(&["server", "tls"], Node::variable(name, value));
            return;
        }
    }

    /// `<NAME>_API_KEY` for each provider of the file that has no key.
    fn set_provider_keys(&mut self, root: &mut Node) {
        let Some(providers) = root.get("providers") else {
            return;
        };
        let mut found = Vec::new();
        for entry in providers.entries() {
            let is_mapping = matches!(entry.node.value, Value::Map(_));
            let has_key = ["api_key", "api_keys"]
                .iter()
                .any(|key| entry.node.get(key).is_some_and(|node| !node.is_null()));
            if !is_mapping || has_key || matches!(entry.place, Place::Variable(_)) {
                continue;
            }
            let name = format!(
                "{}_API_KEY",
                entry
                    .key
                    .to_ascii_uppercase()
                    .replace(|c: char| !c.is_ascii_alphanumeric(), "_")
            );
            // WHY: this one is the command line's own credential, whatever a provider is called.
            if name == "LLM_PROXY_API_KEY" {
                continue;
            }
            if let Some(value) = self.environment.filled(&name) {
                found.push((entry.key.clone(), name.clone(), value.to_owned()));
            }
        }
        for (provider, name, value) in found {
            root.set(&["providers", &provider, "api_key"], Node::variable(&name, value));
        }
    }

    fn judge_the_rest(&mut self) {
        for (name, remedy) in REFUSED {
            if self.environment.filled(name).is_some() {
                self.faults
                    .general("environment", format!("variable `{name}`: {remedy}"));
            }
        }
        let enforce = self
            .environment
            .filled("LLM_PROXY_ENFORCE_PROJECT_ACTIVE")
            .unwrap_or("true");
        if as_bool(enforce) != Some(true) {
            let message = format!(
                "variable `LLM_PROXY_ENFORCE_PROJECT_ACTIVE`: `{enforce}` cannot be had, inactive projects are always refused; remove it"
            );
            self.faults.general("environment", message);
        }
        for name in NO_EFFECT {
            if self.environment.filled(name).is_some() {
                self.warnings.push(format!("variable `{name}` has no effect"));
            }
        }
        for name in PROXIES {
            if self.environment.filled(name).is_some() {
                self.warnings.push(format!(
                    "variable `{name}` is not supported in this version: providers are called directly"
                ));
            }
        }
        let ours = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
        let mut begun: Vec<&str> = Vec::new();
        for name in self.environment.names() {
            let matches = |(known, _): &&(&str, &str)| {
                name == *known || (known.ends_with('_') && name.starts_with(known))
            };
            if let Some((known, ours_named)) = FOREIGN.iter().find(matches)
                && !ours(name)
                && self.environment.filled(name).is_some()
                && !begun.contains(known)
            {
                begun.push(known);
                self.warnings
                    .push(format!("variable `{name}` is not read: {ours_named}"));
            }
        }
    }
}

fn list(name: &str, text: &str) -> Node {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let items = items.map(|item| Node::variable(name, item.to_owned())).collect();
    Node {
        value: Value::List(items),
        place: Place::Variable(name.to_owned()),
    }
}

/// `1 t true y yes on` and their opposites, in any case.
pub(super) fn as_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Some(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}
