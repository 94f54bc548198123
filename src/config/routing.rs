//! `models` and `router`: which targets a public name has, and what happens when one fails.

use std::str::FromStr;
use std::time::Duration;

use super::nearest::nearest;
use super::schema::Key;
use super::section::{MILLISECOND, Section, TEN_YEARS};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "models.<name>.targets",
        "none",
        "Where the public name is served: a list of providers and their names for it; at least one.",
    ),
    Key::new("models.<name>.targets[].provider", "none", "A provider's name."),
    Key::new(
        "models.<name>.targets[].model",
        "none",
        "The provider's name for the model.",
    ),
    Key::new(
        "models.<name>.targets[].weight",
        "1",
        "Share among equals; 0: only when the others fail.",
    ),
    Key::new(
        "models.<name>.targets[].priority",
        "0",
        "Under `priority` the lowest number is tried first, equal ones by weight.",
    ),
    Key::new(
        "models.<name>.strategy",
        "weighted",
        "`weighted`; `priority`: the lowest number, equals by weight; `least_busy`: fewest attempts under way for its weight; `lowest_latency`: first answers soonest.",
    ),
    Key::new(
        "models.<name>.fallbacks",
        "[]",
        "Other public names whose targets are tried, in this order, when those of this one cannot answer.",
    ),
    Key::new(
        "models.<name>.timeouts.first_token",
        "none",
        "Longest wait for the first words of a stream, from the sent request, while another target could answer instead.",
    ),
    Key::new(
        "models.<name>.context_window",
        "none",
        "Tokens the model can read.",
    ),
    Key::new(
        "models.<name>.max_output_tokens",
        "none",
        "Tokens the model can write.",
    ),
    Key::new("router.retries", "2", "Further attempts of a request in all."),
    Key::new(
        "router.retry_base_delay",
        "500ms",
        "First pause before the same targets are tried again; doubled each time, shortened by up to a half at random.",
    ),
    Key::new("router.retry_max_delay", "8s", "Longest pause between attempts."),
    Key::new(
        "router.max_wait",
        "60s",
        "Longest wait of a request in all: for a provider that says when to come back, for a place, for the rate of a key.",
    ),
    Key::new(
        "router.retry_budget",
        "0.2",
        "Further attempts per target in ten seconds: 10 and this share of its requests.",
    ),
    Key::new(
        "router.retry_ambiguous",
        "auto",
        "What is tried again when a request may have reached the provider: `never`; `auto`: a close on a reused connection once more, on a fresh one at the next target (inference paths); `always`: time-outs too.",
    ),
    Key::new(
        "router.heartbeat",
        "off",
        "So often a client that waits for its stream gets a comment. The head (200) is out with the first: what fails later comes as an error event.",
    ),
    Key::new(
        "router.cooldown.failures",
        "5",
        "Failures in a row after which a target is left alone.",
    ),
    Key::new(
        "router.cooldown.duration",
        "30s",
        "First pause of a target; doubled each time.",
    ),
    Key::new("router.cooldown.max", "10m", "Longest pause of a target."),
];

/// Tokens of a context; more is a slip.
const MOST_TOKENS: u64 = 1_000_000_000;

/// One of `models`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// The public name.
    pub name: String,
    /// Where it is served; at least one.
    pub targets: Vec<TargetSettings>,
    /// How a target is chosen.
    pub strategy: Strategy,
    /// Other public names whose targets stand in, in this order.
    pub fallbacks: Vec<String>,
    /// `timeouts.first_token`.
    pub first_token: Option<Duration>,
    /// Tokens the model can read, for people, `/v1/models`, and for what a too long prompt falls back to.
    pub context_window: Option<u64>,
    /// Tokens the model can write.
    pub max_output_tokens: Option<u64>,
}

/// One of `models.*.targets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// The provider's name; it exists.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// Share among equals; 0 = only when the others fail.
    pub weight: u32,
    /// Under `priority` the lowest number is tried first.
    pub priority: u32,
}

/// `models.*.strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// By weight.
    Weighted,
    /// Lowest priority number first, equal ones by weight.
    Priority,
    /// Fewest attempts under way for its weight.
    LeastBusy,
    /// Shortest time to the first byte of an answer.
    LowestLatency,
}

/// `unknown_models`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownModels {
    /// To the default provider, name unchanged.
    PassThrough,
    /// 404 `model_not_found`.
    Reject,
}

/// `router`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSettings {
    /// Further attempts in all.
    pub retries: u32,
    /// First pause before the same targets are tried again.
    pub retry_base_delay: Duration,
    /// Longest pause.
    pub retry_max_delay: Duration,
    /// Longest wait of a request in all.
    pub max_wait: Duration,
    /// Further attempts per target in ten seconds: 10 and this share of its requests.
    pub retry_budget: Share,
    /// What is tried again when a request may have reached the provider.
    pub retry_ambiguous: RetryAmbiguous,
    /// How often a client that waits for its stream gets a comment.
    pub heartbeat: Option<Duration>,
    /// The breaker of each target.
    pub cooldown: CooldownSettings,
}

/// `router.retry_ambiguous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryAmbiguous {
    /// Nothing.
    Never,
    /// A close without an answer; time-outs not.
    Auto,
    /// Time-outs too.
    Always,
}

/// A part of something, as `0.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// In thousandths.
    pub thousandths: u32,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "is no share; write a number from 0 to 100 with at most three digits behind the point, as `0.2`"
                .to_owned()
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if part.len() > 3 || whole.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
        if whole > 100 {
            return Err(wrong());
        }
        Ok(Self {
            thousandths: whole * 1000 + part,
        })
    }
}

/// `router.cooldown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownSettings {
    /// Failures in a row that open the breaker.
    pub failures: u32,
    /// First pause; it doubles with each further one.
    pub duration: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            retries: 2,
            retry_base_delay: Duration::from_millis(500),
            retry_max_delay: Duration::from_secs(8),
            max_wait: Duration::from_mins(1),
            retry_budget: Share { thousandths: 200 },
            retry_ambiguous: RetryAmbiguous::Auto,
            heartbeat: None,
            cooldown: CooldownSettings::default(),
        }
    }
}

impl Default for CooldownSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            duration: Duration::from_secs(30),
            max: Duration::from_mins(10),
        }
    }
}

impl ModelSettings {
    /// All of `models`; `providers` are the names that targets may use.
    pub(super) fn read_all(root: &Section<'_>, providers: &[&str]) -> Vec<Self> {
        let mut models = Vec::new();
        let named = root.named("models");
        let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for (name, section) in named {
            let models_section = root.section("models");
            if name.is_empty()
                || name.len() > 256
                || name.chars().any(|c| c.is_control() || c.is_whitespace())
            {
                models_section.refuse(
                    &name,
                    "is no name for a model; use up to 256 characters without spaces",
                );
            }
            let Some(section) = section else {
                models_section.refuse(
                    &name,
                    "has no value; write `targets: [{provider: …, model: …}]` below it",
                );
                continue;
            };
            models.push(Self::read(&section, name, &names, providers));
        }
        models
    }

    fn read(section: &Section<'_>, name: String, names: &[&str], providers: &[&str]) -> Self {
        let targets: Vec<TargetSettings> = section
            .items("targets")
            .iter()
            .filter_map(|target| TargetSettings::read(target, providers))
            .collect();
        if !section.has("targets") {
            section.refuse(
                "targets",
                "is missing; write `targets: [{provider: …, model: …}]`",
            );
        } else if section.is_empty_list("targets") {
            section.refuse("targets", "is empty; name at least one target");
        } else if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
            section.refuse("targets", "has no target with a weight above 0");
        }
        let fallbacks = section.checked_list("fallbacks", Vec::new(), |text| Ok(text.to_owned()));
        for (index, fallback) in fallbacks.iter().enumerate() {
            if *fallback == name {
                section.refuse("fallbacks", "names the model itself");
            } else if !names.contains(&fallback.as_str()) {
                let hint = match nearest(fallback, names.iter().copied().filter(|other| *other != name)) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => String::new(),
                };
                let message = format!("names `{fallback}`, which is none of `models`{hint}");
                section.refuse("fallbacks", &message);
            } else if fallbacks[..index].contains(fallback) {
                section.refuse("fallbacks", &format!("names `{fallback}` twice"));
            }
        }
        Self {
            name,
            targets,
            strategy: section.choice(
                "strategy",
                Strategy::Weighted,
                &[
                    ("weighted", Strategy::Weighted),
                    ("priority", Strategy::Priority),
                    ("least_busy", Strategy::LeastBusy),
                    ("lowest_latency", Strategy::LowestLatency),
                ],
                &[],
            ),
            fallbacks,
            first_token: section
                .section("timeouts")
                .optional_duration("first_token", MILLISECOND..=TEN_YEARS),
            context_window: section.optional_number("context_window", 1..=MOST_TOKENS),
            max_output_tokens: section.optional_number("max_output_tokens", 1..=MOST_TOKENS),
        }
    }
}

impl TargetSettings {
    fn read(section: &Section<'_>, providers: &[&str]) -> Option<Self> {
        for key in ["provider", "model"] {
            if !section.has(key) {
                section.refuse(key, "is missing");
            }
        }
        let weight = section.number("weight", 1, 0..=1_000_000);
        let priority = section.number("priority", 0, 0..=1_000_000);
        let (provider, model) = (section.text("provider"), section.text("model"));
        if let Some(name) = &provider {
            refuse_unknown_provider(section, "provider", name, providers);
        }
        Some(Self {
            provider: provider?,
            model: model?,
            weight,
            priority,
        })
    }
}

/// Says which providers there are when `name` is none of them.
pub(super) fn refuse_unknown_provider(section: &Section<'_>, key: &str, name: &str, providers: &[&str]) {
    if providers.contains(&name) {
        return;
    }
    let hint = match nearest(name, providers.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let list: Vec<String> = providers.iter().map(|name| format!("`{name}`")).collect();
            format!("there are {}", list.join(", "))
        }
    };
    section.refuse(
        key,
        &format!("no provider is named {}; {hint}", section.shown(key)),
    );
}

impl RouterSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let cooldown = section.section("cooldown");
        let duration = |key: &str, default| cooldown.duration(key, default, MILLISECOND..=TEN_YEARS);
        let settings = CooldownSettings {
            failures: cooldown.number("failures", default.cooldown.failures, 1..=1_000_000),
            duration: duration("duration", default.cooldown.duration),
            max: duration("max", default.cooldown.max),
        };
        if settings.max < settings.duration {
            let key = if cooldown.has("max") { "max" } else { "duration" };
            cooldown.refuse(key, "`max` is shorter than `duration`");
        }
        let pause = |key: &str, default| section.duration(key, default, Duration::ZERO..=TEN_YEARS);
        Self {
            retries: section.number("retries", default.retries, 0..=100),
            retry_base_delay: pause("retry_base_delay", default.retry_base_delay),
            retry_max_delay: pause("retry_max_delay", default.retry_max_delay),
            max_wait: pause("max_wait", default.max_wait),
            retry_budget: section.fraction("retry_budget", default.retry_budget),
            retry_ambiguous: section.choice(
                "retry_ambiguous",
                default.retry_ambiguous,
                &[
                    ("never", RetryAmbiguous::Never),
                    ("auto", RetryAmbiguous::Auto),
                    ("always", RetryAmbiguous::Always),
                ],
                &[],
            ),
            heartbeat: if section.is_text("heartbeat", "off") {
                None
            } else {
                section.optional_duration("heartbeat", Duration::from_millis(100)..=TEN_YEARS)
            },
            cooldown: settings,
        }
    }
}
