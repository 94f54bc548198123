//! What a model costs: a table by provider and model, overrides of the operator, and the sum for one request.

mod table;

use std::collections::HashMap;

use super::money::round_up;
use super::{MediaUsage, NanoUsd, PerMillion, TokenUsage};

pub use table::{PriceFileError, PriceTable};

/// The prices of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelPrice {
    /// Of the prompt.
    pub input: PerMillion,
    /// Of the answer.
    pub output: PerMillion,
    /// Of prompt tokens read from the provider's cache; absent: as any other.
    pub cache_read: Option<PerMillion>,
    /// Of prompt tokens written to the provider's cache; absent: as any other.
    pub cache_write: Option<PerMillion>,
    /// Of those to be kept for an hour; absent: as `cache_write`.
    pub cache_write_1h: Option<PerMillion>,
    /// Other prices for long prompts.
    pub tiers: Vec<Tier>,
    /// Of a million pictures, a million minutes of sound listened to, a million characters spoken.
    pub image: PerMillion,
    /// See `image`.
    pub audio_minute: PerMillion,
    /// See `image`.
    pub character: PerMillion,
    /// The longest prompt, as far as it is known.
    pub max_input_tokens: Option<u64>,
    /// The longest answer, as far as it is known.
    pub max_output_tokens: Option<u64>,
}

/// Milliseconds of a minute.
const MINUTE_MILLIS: u128 = 60_000;

/// Which prices a prompt may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheWrites {
    /// The client must ask for writes to the provider's cache, and did not.
    No,
    /// Some of it may be written.
    Some,
    /// Some of it may be written, to be kept for an hour.
    ForAnHour,
}

/// Prices of a request whose prompt is longer than so many tokens: all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tier {
    /// Prompts of more tokens than this.
    pub above_tokens: u64,
    /// Of the prompt; absent: as below.
    pub input: Option<PerMillion>,
    /// Of the answer; absent: as below.
    pub output: Option<PerMillion>,
    /// Of tokens read from the cache; absent: in the proportion of `input`.
    pub cache_read: Option<PerMillion>,
    /// Of tokens written to the cache; absent: in the proportion of `input`.
    pub cache_write: Option<PerMillion>,
    /// Of those kept for an hour; absent: in the proportion of `input`.
    pub cache_write_1h: Option<PerMillion>,
}

impl ModelPrice {
    /// Whether tokens cost nothing: it is paid by the picture, the minute or the character, or not at all.
    pub fn has_free_tokens(&self) -> bool {
        let free = |price: &PerMillion| *price == PerMillion::default();
        free(&self.input)
            && free(&self.output)
            && self
                .tiers
                .iter()
                .all(|tier| tier.input.as_ref().is_none_or(free) && tier.output.as_ref().is_none_or(free))
    }

    /// Whether nothing costs anything.
    pub fn is_free(&self) -> bool {
        let free = PerMillion::default();
        self.has_free_tokens() && self.image == free && self.audio_minute == free && self.character == free
    }

    fn media_sum(&self, media: &MediaUsage) -> u128 {
        self.image
            .times(media.images)
            .saturating_add(self.character.times(media.characters))
            .saturating_add(
                self.audio_minute
                    .times(media.audio_millis)
                    .div_ceil(MINUTE_MILLIS),
            )
    }

    /// What pictures, sounds and characters cost, rounded up.
    pub fn media_cost(&self, media: &MediaUsage) -> NanoUsd {
        round_up(self.media_sum(media))
    }

    /// What a request costs at most whose prompt and answer have at most so many tokens.
    pub fn bound(&self, prompt: u64, completion: u64, writes: CacheWrites) -> NanoUsd {
        let own = Tier {
            above_tokens: 0,
            ..Tier::default()
        };
        let reached = self.tiers.iter().filter(|tier| prompt > tier.above_tokens);
        std::iter::once(&own)
            .chain(reached)
            .map(|tier| self.bound_in(tier, prompt, completion, writes))
            .max()
            .unwrap_or(NanoUsd::ZERO)
    }

    fn bound_in(&self, tier: &Tier, prompt: u64, completion: u64, writes: CacheWrites) -> NanoUsd {
        let input = tier.input.unwrap_or(self.input);
        let output = tier.output.unwrap_or(self.output);
        let scaled = |own: Option<PerMillion>, of_tier: Option<PerMillion>| {
            of_tier.or(own.map(|price| price.scaled(input, self.input)))
        };
        let write = scaled(self.cache_write, tier.cache_write).filter(|_| writes != CacheWrites::No);
        let hour =
            scaled(self.cache_write_1h, tier.cache_write_1h).filter(|_| writes == CacheWrites::ForAnHour);
        let dearest = [Some(input), write, hour]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(input);
        round_up(dearest.times(prompt).saturating_add(output.times(completion)))
    }

    /// What a request costs, rounded up once.
    pub fn cost(&self, usage: &TokenUsage) -> NanoUsd {
        let tier = self
            .tiers
            .iter()
            .filter(|tier| usage.prompt > tier.above_tokens)
            .max_by_key(|tier| tier.above_tokens);
        let input = tier.and_then(|tier| tier.input).unwrap_or(self.input);
        let output = tier.and_then(|tier| tier.output).unwrap_or(self.output);
        let cached = |own: Option<PerMillion>, of_tier: Option<PerMillion>| {
            of_tier.or(own.map(|price| price.scaled(input, self.input)))
        };
        let read = cached(self.cache_read, tier.and_then(|tier| tier.cache_read)).unwrap_or(input);
        let write = cached(self.cache_write, tier.and_then(|tier| tier.cache_write)).unwrap_or(input);
        let write_1h =
            cached(self.cache_write_1h, tier.and_then(|tier| tier.cache_write_1h)).unwrap_or(write);
        let plain = usage
            .prompt
            .saturating_sub(usage.cache_read)
            .saturating_sub(usage.cache_write);
        let hour = usage.cache_write_1h.min(usage.cache_write);
        let sum = input
            .times(plain)
            .saturating_add(read.times(usage.cache_read))
            .saturating_add(write.times(usage.cache_write - hour))
            .saturating_add(write_1h.times(hour))
            .saturating_add(output.times(usage.completion))
            .saturating_add(self.media_sum(&usage.media));
        round_up(sum)
    }
}

/// Where a request is priced.
#[derive(Debug, Clone, Copy)]
pub struct Priced<'a> {
    /// The public name the client asked for.
    pub public: &'a str,
    /// The provider's configured name.
    pub provider: &'a str,
    /// The provider whose prices hold where its own name is in no table: `openai`, `anthropic`, `azure`.
    pub family: &'a str,
    /// The provider's name for the model.
    pub model: &'a str,
}

/// All prices of a configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    overrides: HashMap<String, ModelPrice>,
    table: PriceTable,
}

impl Prices {
    /// A table with the operator's overrides above it.
    pub fn new(table: PriceTable, overrides: HashMap<String, ModelPrice>) -> Self {
        Self { overrides, table }
    }

    /// The price of a model: an override by public name, else by the provider's, else the table's. A dated name that is
    /// nowhere has the price of its base.
    pub fn find(&self, priced: Priced<'_>) -> Option<&ModelPrice> {
        self.overrides
            .get(priced.public)
            .or_else(|| self.overrides.get(priced.model))
            .or_else(|| self.table.find(priced))
    }

    /// Whether any table or override knows the name.
    pub fn knows(&self, model: &str) -> bool {
        self.overrides.contains_key(model) || self.table.knows(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: &str, output: &str) -> ModelPrice {
        ModelPrice {
            input: input.parse().unwrap(),
            output: output.parse().unwrap(),
            ..ModelPrice::default()
        }
    }

    fn of(model: &str) -> Priced<'_> {
        Priced {
            public: model,
            provider: "openai",
            family: "openai",
            model,
        }
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price = ModelPrice {
            cache_read: Some("0.3".parse().unwrap()),
            cache_write: Some("3.75".parse().unwrap()),
            cache_write_1h: Some("6".parse().unwrap()),
            ..price("3", "15")
        };
        let usage = TokenUsage {
            prompt: 1000,
            completion: 100,
            cache_read: 500,
            cache_write: 300,
            cache_write_1h: 100,
            reasoning: 50,
            ..TokenUsage::default()
        };
        // 200 × 3 + 500 × 0.3 + 200 × 3.75 + 100 × 6 + 100 × 15 millionths of a dollar
        assert_eq!(price.cost(&usage), NanoUsd::from_nanos(3_600_000));
        let without = super::tests::price("3", "15");
        assert_eq!(
            without.cost(&usage),
            NanoUsd::from_nanos(4_500_000),
            "without prices of its own the cache costs as much"
        );
        assert_eq!(price.cost(&TokenUsage::default()), NanoUsd::ZERO);
    }

    #[test]
    fn pictures_sounds_and_characters_have_theirs_and_all_is_rounded_once() {
        let price = ModelPrice {
            image: "0.04".parse::<PerMillion>().unwrap().of_each(),
            audio_minute: "0.006".parse::<PerMillion>().unwrap().of_each(),
            character: "15".parse().unwrap(),
            ..ModelPrice::default()
        };
        let cost = |images, audio_millis, characters| {
            let media = MediaUsage {
                images,
                audio_millis,
                characters,
            };
            assert_eq!(
                price.media_cost(&media),
                price.cost(&TokenUsage {
                    media,
                    ..TokenUsage::default()
                })
            );
            price.media_cost(&media).nanos()
        };
        assert_eq!(cost(2, 0, 0), 80_000_000);
        assert_eq!(cost(0, 60_000, 0), 6_000_000);
        assert_eq!(cost(0, 8470, 0), 847_000);
        assert_eq!(cost(0, 1, 0), 100);
        assert_eq!(cost(0, 0, 11), 165_000);
        assert!(price.has_free_tokens() && !price.is_free() && ModelPrice::default().is_free());
        assert!(!super::tests::price("0", "1").has_free_tokens());
    }

    #[test]
    fn a_bound_is_never_below_the_cost() {
        let price = ModelPrice {
            cache_read: Some("0.3".parse().unwrap()),
            cache_write: Some("3.75".parse().unwrap()),
            cache_write_1h: Some("6".parse().unwrap()),
            tiers: vec![Tier {
                above_tokens: 100,
                input: Some("6".parse().unwrap()),
                ..Tier::default()
            }],
            ..price("3", "15")
        };
        let bound = |prompt, writes| price.bound(prompt, 10, writes).nanos();
        assert_eq!(bound(100, CacheWrites::No), 100 * 3000 + 150_000);
        assert_eq!(bound(100, CacheWrites::Some), 100 * 3750 + 150_000);
        assert_eq!(bound(100, CacheWrites::ForAnHour), 100 * 6000 + 150_000);
        assert_eq!(bound(101, CacheWrites::No), 101 * 6000 + 150_000);
        assert_eq!(bound(101, CacheWrites::ForAnHour), 101 * 12_000 + 150_000);
        for (prompt, hour) in [(90, 90), (101, 0), (101, 101)] {
            let usage = TokenUsage {
                prompt,
                completion: 10,
                cache_write: prompt,
                cache_write_1h: hour,
                ..TokenUsage::default()
            };
            assert!(price.cost(&usage).nanos() <= bound(prompt, CacheWrites::ForAnHour));
        }
    }

    #[test]
    fn long_prompts_cost_more_all_of_them() {
        let price = ModelPrice {
            cache_read: Some("0.3".parse().unwrap()),
            tiers: vec![Tier {
                above_tokens: 200_000,
                input: Some("6".parse().unwrap()),
                output: Some("22.5".parse().unwrap()),
                ..Tier::default()
            }],
            ..price("3", "15")
        };
        let usage = |prompt, cache_read| TokenUsage {
            prompt,
            cache_read,
            completion: 1000,
            ..TokenUsage::default()
        };
        assert_eq!(price.cost(&usage(200_000, 0)).nanos(), 615_000_000);
        assert_eq!(price.cost(&usage(200_001, 0)).nanos(), 1_222_506_000);
        // the cache in proportion: 0.6 a million
        assert_eq!(price.cost(&usage(300_000, 300_000)).nanos(), 202_500_000);
    }

    #[test]
    fn names_are_found_as_providers_write_them() {
        let prices = Prices::new(PriceTable::built_in().clone(), HashMap::new());
        let input = |priced: Priced<'_>| prices.find(priced).map(|price| price.input.to_string());
        assert_eq!(input(of("gpt-4o")).as_deref(), Some("2.5"));
        assert_eq!(
            input(of("gpt-4o-2024-05-13")).as_deref(),
            Some("5"),
            "its own row"
        );
        for dated in [
            "gpt-4o-2031-01-02",
            "gpt-4o-20310102",
            "gpt-4o@20310102",
            "gpt-4o-latest",
        ] {
            assert_eq!(input(of(dated)).as_deref(), Some("2.5"), "{dated}");
        }
        assert_eq!(input(of("no-such-model")), None);
        assert_eq!(input(of("")), None);
        let azure = Priced {
            provider: "my-azure",
            family: "azure",
            ..of("gpt-4o-mini-tts")
        };
        assert_eq!(
            input(azure).as_deref(),
            Some("0.6"),
            "rows of Azure's own begin with its name"
        );
        let claude = Priced {
            provider: "claude-team",
            family: "anthropic",
            ..of("claude-haiku-4-5-20251001")
        };
        assert_eq!(input(claude).as_deref(), Some("1"));
    }

    #[test]
    fn overrides_stand_above_the_table() {
        let overrides = HashMap::from([
            ("fast".to_owned(), price("1", "2")),
            ("gpt-4o".to_owned(), price("9", "9")),
        ]);
        let prices = Prices::new(PriceTable::built_in().clone(), overrides);
        let by_public = Priced {
            public: "fast",
            ..of("gpt-4o")
        };
        assert_eq!(prices.find(by_public), Some(&price("1", "2")));
        assert_eq!(prices.find(of("gpt-4o")), Some(&price("9", "9")));
        assert!(prices.knows("fast") && prices.knows("gpt-4o-mini") && !prices.knows("x"));
    }
}
