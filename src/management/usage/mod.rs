//! `/manage/usage`: what was used and what it cost, in sums and record by record.

mod csv;
mod records;
mod sums;
mod view;

pub use records::records;
pub use sums::{Listed, sums};
pub use view::RecordView;

use super::error::ApiError;
use super::json_fields::shortened;
use super::query::Query;

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

impl Format {
    fn of(query: &Query) -> Result<Self, ApiError> {
        match query.text(&["format"]) {
            None | Some("json") => Ok(Self::Json),
            Some("csv") => Ok(Self::Csv),
            Some(other) => Err(ApiError::Invalid(format!(
                "`format` must be `json` or `csv`; found `{}`",
                shortened(other)
            ))),
        }
    }
}

fn parsed<T: std::str::FromStr>(query: &Query, name: &str, must_be: &str) -> Result<Option<T>, ApiError> {
    let Some(text) = query.text(&[name]) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::Invalid(format!("`{name}` must be {must_be}; found `{}`", shortened(text))))
}
