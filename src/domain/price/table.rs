//! The table of prices: a CSV file by provider and model.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::{ModelPrice, Priced, Tier};
use crate::domain::PerMillion;

/// The table this version was made with.
const BUILT_IN: &str = include_str!("model-prices.csv");

/// Above how many tokens the columns `…_above_200k_…` hold.
const LONG_PROMPT: u64 = 200_000;

/// Rows of a file that an operator gives; more is no price table.
const MOST_ROWS: usize = 100_000;

/// Why a price table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceFileError {
    /// The first line.
    #[error(
        "line 1 must name the columns `provider`, `model`, `input_usd_per_mtok` and `output_usd_per_mtok`"
    )]
    Columns,
    /// A row with too few or too many fields.
    #[error("line {line} has {found} fields, not {expected}")]
    Fields {
        /// One-based.
        line: usize,
        /// How many it has.
        found: usize,
        /// How many the first line has.
        expected: usize,
    },
    /// A price that is none.
    #[error(
        "line {line}: `{column}` is no amount of dollars; write digits with at most nine decimals, such as `0.15`"
    )]
    Amount {
        /// One-based.
        line: usize,
        /// Its column.
        column: String,
    },
    /// Too many rows.
    #[error("it has more than {MOST_ROWS} rows")]
    TooLong,
}

/// Prices by model, each of one or more providers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PriceTable {
    by_model: Arc<HashMap<String, Vec<Row>>>,
}

#[derive(Debug, PartialEq)]
struct Row {
    provider: String,
    price: ModelPrice,
}

impl PriceTable {
    /// The table this version was made with; read at its first use.
    pub fn built_in() -> &'static Self {
        static TABLE: OnceLock<PriceTable> = OnceLock::new();
        TABLE.get_or_init(|| {
            Self::parse(BUILT_IN).unwrap_or_else(|error| {
                // a test reads it: this cannot be
                log::error!("the built-in price table: {error}");
                Self::default()
            })
        })
    }

    /// Reads a table with the columns of the built-in one; further columns are left alone, absent ones are empty.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(text: &str) -> Result<Self, PriceFileError> {
        let mut lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        let header: Vec<&str> = lines
            .next()
            .map(|(_, line)| line.split(',').map(str::trim).collect())
            .unwrap_or_default();
        let column = |name: &str| header.iter().position(|column| *column == name);
        let (Some(provider), Some(model), Some(_), Some(_)) = (
            column("provider"),
            column("model"),
            column("input_usd_per_mtok"),
            column("output_usd_per_mtok"),
        ) else {
            return Err(PriceFileError::Columns);
        };
        let mut by_model: HashMap<String, Vec<Row>> = HashMap::new();
        for (rows, (index, line)) in lines.enumerate() {
            if rows >= MOST_ROWS {
                return Err(PriceFileError::TooLong);
            }
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            if fields.len() != header.len() {
                return Err(PriceFileError::Fields {
                    line: index + 1,
                    found: fields.len(),
                    expected: header.len(),
                });
            }
            let Some(price) = price_of(&header, &fields, index + 1)? else {
                continue;
            };
            by_model.entry(fields[model].to_owned()).or_default().push(Row {
                provider: fields[provider].to_owned(),
                price,
            });
        }
        Ok(Self {
            by_model: Arc::new(by_model),
        })
    }

    /// The price of a model at a provider, by the name as it is, then without what dates it.
    pub(super) fn find(&self, priced: Priced<'_>) -> Option<&ModelPrice> {
        let undated = without_date(priced.model);
        [Some(priced.model), undated]
            .into_iter()
            .flatten()
            .find_map(|model| self.at_provider(priced, model))
    }

    fn at_provider(&self, priced: Priced<'_>, model: &str) -> Option<&ModelPrice> {
        let of = |provider: &str, name: &str| {
            let rows = self.by_model.get(name)?;
            rows.iter()
                .find(|row| row.provider == provider)
                .map(|row| &row.price)
        };
        for provider in [priced.provider, priced.family] {
            // some providers' rows begin with their name
            let found = of(provider, model).or_else(|| of(provider, &[provider, "/", model].concat()));
            if found.is_some() {
                return found;
            }
        }
        // a provider that is in no table and speaks a known dialect: whoever else has this very name
        if priced.family == "azure" {
            return of("openai", model);
        }
        None
    }

    /// Whether any provider has the name.
    pub(super) fn knows(&self, model: &str) -> bool {
        self.by_model.contains_key(model)
            || without_date(model).is_some_and(|model| self.by_model.contains_key(model))
    }

    /// How many models it has.
    pub fn len(&self) -> usize {
        self.by_model.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.by_model.is_empty()
    }
}

/// The price in a row; `None`: it prices nothing by tokens.
fn price_of(header: &[&str], fields: &[&str], line: usize) -> Result<Option<ModelPrice>, PriceFileError> {
    let field = |name: &str| {
        let at = header.iter().position(|column| *column == name);
        at.map_or("", |at| fields[at])
    };
    let amount = |name: &str| -> Result<Option<PerMillion>, PriceFileError> {
        let text = field(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .ok()
            .filter(|price| *price <= PerMillion::MOST)
            .map(Some)
            .ok_or_else(|| PriceFileError::Amount {
                line,
                column: name.to_owned(),
            })
    };
    let (input, output) = (amount("input_usd_per_mtok")?, amount("output_usd_per_mtok")?);
    let long = (
        amount("input_above_200k_usd_per_mtok")?,
        amount("output_above_200k_usd_per_mtok")?,
    );
    let price = ModelPrice {
        input: input.unwrap_or_default(),
        output: output.unwrap_or_default(),
        cache_read: amount("cache_read_usd_per_mtok")?,
        cache_write: amount("cache_write_usd_per_mtok")?,
        cache_write_1h: amount("cache_write_1h_usd_per_mtok")?,
        // a limit that is no number is not known
        max_input_tokens: field("max_input_tokens").parse().ok(),
        max_output_tokens: field("max_output_tokens").parse().ok(),
        tiers: if long == (None, None) {
            Vec::new()
        } else {
            vec![Tier {
                above_tokens: LONG_PROMPT,
                input: long.0,
                output: long.1,
                ..Tier::default()
            }]
        },
        ..ModelPrice::default()
    };
    let nothing = |price: Option<PerMillion>| price.is_none_or(|price| price == PerMillion::default());
    // images by the piece; and of a picture the prompt is the smaller part, so that its price alone is none
    let by_tokens = !nothing(input) || !nothing(output) || is_free(input, output);
    let pictures_unpriced = field("mode") == "image_generation" && output.is_none();
    Ok((by_tokens && !pictures_unpriced).then_some(price))
}

/// A model that costs nothing says so for both.
fn is_free(input: Option<PerMillion>, output: Option<PerMillion>) -> bool {
    input == Some(PerMillion::default()) && output == Some(PerMillion::default())
}

/// A name without the date or the `latest` at its end: `-2024-08-06`, `-20240806`, `@20240806`, `-latest`.
fn without_date(model: &str) -> Option<&str> {
    if let Some(base) = model.strip_suffix("-latest") {
        return Some(base);
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (base, date) = model.rsplit_once(['-', '@'])?;
    if date.len() == 8 && digits(date) {
        return Some(base);
    }
    let (rest, day) = model.rsplit_once('-')?;
    let (rest, month) = rest.rsplit_once('-')?;
    let (base, year) = rest.rsplit_once('-')?;
    let dated = [(day, 2), (month, 2), (year, 4)]
        .iter()
        .all(|(part, length)| part.len() == *length && digits(part));
    dated.then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "provider,model,input_usd_per_mtok,output_usd_per_mtok\n";

    #[test]
    fn the_built_in_table_is_whole() {
        let table = PriceTable::parse(BUILT_IN).unwrap();
        assert!(table.len() > 1500, "{}", table.len());
        assert!(!table.is_empty() && table.knows("claude-haiku-4-5"));
    }

    #[test]
    fn what_is_no_table_says_where() {
        let fault = |text: &str| PriceTable::parse(text).unwrap_err().to_string();
        assert!(fault("").contains("line 1"));
        assert!(fault("model,price\na,1\n").contains("`provider`"));
        assert_eq!(fault(&format!("{HEAD}\na,b,1\n")), "line 3 has 3 fields, not 4");
        assert!(fault(&format!("{HEAD}a,b,1,-2\n")).contains("line 2: `output_usd_per_mtok`"));
        assert!(fault(&format!("{HEAD}a,b,1000001,2\n")).contains("`input_usd_per_mtok`"));
    }

    #[test]
    fn rows_without_a_price_are_none_and_free_models_are_free() {
        let table =
            PriceTable::parse(&format!("{HEAD}a,picture,,0\na,free,0,0\na,embedding,0.1,\n")).unwrap();
        assert!(!table.knows("picture") && table.knows("free") && table.knows("embedding"));
    }

    #[test]
    fn only_dates_are_taken_off() {
        for (name, base) in [
            ("m-2024-08-06", Some("m")),
            ("m-20240806", Some("m")),
            ("m@20240806", Some("m")),
            ("m-latest", Some("m")),
            ("m-8-06", None),
            ("m-2024-8-06", None),
            ("m-mini", None),
            ("", None),
        ] {
            assert_eq!(without_date(name), base, "{name}");
        }
    }
}
