//! `prices`: what models cost.

use std::collections::HashMap;
use std::path::PathBuf;

use super::file::read_regular;
use super::schema::Key;
use super::section::Section;
use crate::domain::price::Tier;
use crate::domain::{ModelPrice, PerMillion, PriceTable, Prices};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "prices.file",
        "built in",
        "A CSV file with the columns of the built-in table, instead of it; read again when it changes.",
    ),
    Key::new(
        "prices.unknown",
        "warn",
        "Models without a price: `warn` and `zero` count them as free, `refuse` answers 400 `price_unknown`.",
    ),
    Key::new(
        "prices.overrides.<name>.input_usd_per_mtok",
        "none",
        "Dollars for a million tokens of the prompt, by the public name, else by the provider's.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.usd_per_image",
        "0",
        "Dollars for a picture that is made; `input_usd_per_mtok` may be left out beside this and the next two.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.usd_per_audio_minute",
        "0",
        "Dollars for a minute of sound that is listened to.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.usd_per_million_characters",
        "0",
        "Dollars for a million characters that are spoken.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.output_usd_per_mtok",
        "0",
        "Dollars for a million tokens of the answer.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.cache_read_usd_per_mtok",
        "as the prompt's",
        "Of prompt tokens read from the provider's cache.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.cache_write_usd_per_mtok",
        "as the prompt's",
        "Of prompt tokens written to the provider's cache.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.cache_write_1h_usd_per_mtok",
        "as `cache_write`",
        "Of those kept for an hour.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.tiers",
        "[]",
        "Other prices for long prompts: a list.",
    )
    .computed(),
    Key::new(
        "prices.overrides.<name>.tiers[].above_tokens",
        "none",
        "Prompts of more tokens than this have the prices of this tier, for all of them.",
    ),
    Key::new(
        "prices.overrides.<name>.tiers[].input_usd_per_mtok",
        "as below it",
        "Of the prompt.",
    ),
    Key::new(
        "prices.overrides.<name>.tiers[].output_usd_per_mtok",
        "as below it",
        "Of the answer.",
    ),
    Key::new(
        "prices.overrides.<name>.tiers[].cache_read_usd_per_mtok",
        "in proportion",
        "Of prompt tokens read from the provider's cache.",
    ),
    Key::new(
        "prices.overrides.<name>.tiers[].cache_write_usd_per_mtok",
        "in proportion",
        "Of prompt tokens written to the provider's cache.",
    ),
    Key::new(
        "prices.overrides.<name>.tiers[].cache_write_1h_usd_per_mtok",
        "in proportion",
        "Of those kept for an hour.",
    ),
];

/// The largest price table that is read.
const MOST_FILE_BYTES: u64 = 32 << 20;

/// The most a picture or a minute may cost; more is a slip.
const MOST_EACH: PerMillion = PerMillion::from_nanos(1000 * 1_000_000_000);

/// Tokens of a prompt; more is a slip.
const MOST_TOKENS: u64 = 1_000_000_000;

/// `prices.unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownPrice {
    /// Free, with a warning.
    Warn,
    /// Free.
    Zero,
    /// Refused.
    Refuse,
}

/// `prices`.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceSettings {
    /// The file of the table; `None`: the built-in one.
    pub file: Option<PathBuf>,
    /// What the models cost.
    pub prices: Prices,
    /// What happens to those without a price.
    pub unknown: UnknownPrice,
}

impl Default for PriceSettings {
    fn default() -> Self {
        Self {
            file: None,
            prices: Prices::new(PriceTable::built_in().clone(), HashMap::new()),
            unknown: UnknownPrice::Warn,
        }
    }
}

impl PriceSettings {
    /// Whether models without a price are warned of.
    pub fn warns_of_unknown(&self) -> bool {
        self.unknown == UnknownPrice::Warn
    }

    /// Whether models without a price are refused.
    pub fn refuses_unknown(&self) -> bool {
        self.unknown == UnknownPrice::Refuse
    }

    pub(super) fn read(section: &Section<'_>) -> Self {
        let file = section
            .file_path("file")
            .filter(|_| !section.is_text("file", "built in"));
        let table = match &file {
            None => PriceTable::built_in().clone(),
            Some(path) => read_table(section, path),
        };
        let overrides = section
            .named("overrides")
            .into_iter()
            .filter_map(|(name, own)| Some((name, read_price(&own?))))
            .collect();
        Self {
            file,
            prices: Prices::new(table, overrides),
            unknown: section.choice(
                "unknown",
                UnknownPrice::Warn,
                &[
                    ("warn", UnknownPrice::Warn),
                    ("zero", UnknownPrice::Zero),
                    ("refuse", UnknownPrice::Refuse),
                ],
                &[],
            ),
        }
    }
}

fn read_table(section: &Section<'_>, path: &std::path::Path) -> PriceTable {
    let text = match read_regular(path, MOST_FILE_BYTES) {
        Ok(text) => text,
        Err(fault) => {
            section.refuse("file", &format!("cannot be used: {fault}"));
            return PriceTable::default();
        }
    };
    PriceTable::parse(&text).unwrap_or_else(|fault| {
        section.refuse("file", &format!("is no price table: {fault}"));
        PriceTable::default()
    })
}

fn amount(section: &Section<'_>, key: &str) -> Option<PerMillion> {
    section.dollars(key, PerMillion::MOST)
}

fn read_price(own: &Section<'_>) -> ModelPrice {
    let by_the_piece = [
        "usd_per_image",
        "usd_per_audio_minute",
        "usd_per_million_characters",
    ];
    if !own.has("input_usd_per_mtok") && !by_the_piece.iter().any(|key| own.has(key)) {
        own.refuse("input_usd_per_mtok", "is missing");
    }
    ModelPrice {
        input: amount(own, "input_usd_per_mtok").unwrap_or_default(),
        output: amount(own, "output_usd_per_mtok").unwrap_or_default(),
        cache_read: amount(own, "cache_read_usd_per_mtok"),
        cache_write: amount(own, "cache_write_usd_per_mtok"),
        cache_write_1h: amount(own, "cache_write_1h_usd_per_mtok"),
        tiers: if own.has("tiers") {
            own.items("tiers").iter().map(read_tier).collect()
        } else {
            Vec::new()
        },
        image: amount_each(own, "usd_per_image"),
        audio_minute: amount_each(own, "usd_per_audio_minute"),
        character: amount(own, "usd_per_million_characters").unwrap_or_default(),
        ..ModelPrice::default()
    }
}

fn amount_each(own: &Section<'_>, key: &str) -> PerMillion {
    own.dollars(key, MOST_EACH).unwrap_or_default().of_each()
}

fn read_tier(tier: &Section<'_>) -> Tier {
    if !tier.has("above_tokens") {
        tier.refuse("above_tokens", "is missing");
    }
    Tier {
        above_tokens: tier.number("above_tokens", 1, 1..=MOST_TOKENS),
        input: amount(tier, "input_usd_per_mtok"),
        output: amount(tier, "output_usd_per_mtok"),
        cache_read: amount(tier, "cache_read_usd_per_mtok"),
        cache_write: amount(tier, "cache_write_usd_per_mtok"),
        cache_write_1h: amount(tier, "cache_write_1h_usd_per_mtok"),
    }
}
