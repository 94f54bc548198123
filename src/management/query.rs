//! The query string of a management request, decoded once.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::json_fields::shortened;
use crate::domain::Timestamp;

/// The pairs of a query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes the query of `uri`; what is no UTF-8 becomes U+FFFD.
    pub fn of(uri: &Uri) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of any of `names` that is not empty.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, value)| names.contains(&name.as_str()) && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// All values of a name that may be given several times.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// An owned [`Query::text`].
    pub fn owned(&self, name: &str) -> Option<String> {
        self.text(&[name]).map(str::to_owned)
    }

    /// A whole number of at least 1.
    pub fn count(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let Some(text) = self.text(&[name]) else {
            return Ok(None);
        };
        match text.parse::<u32>() {
            Ok(number) if number >= 1 => Ok(Some(number)),
            _ => Err(ApiError::Invalid(format!(
                "`{name}` must be an integer of at least 1; found `{}`",
                shortened(text)
            ))),
        }
    }

    /// A switch; absent is off.
    pub fn switch(&self, names: &[&str]) -> Result<bool, ApiError> {
        let Some(text) = self.text(names) else {
            return Ok(false);
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" | "y" | "on" => Ok(true),
            "false" | "0" | "f" | "no" | "n" | "off" => Ok(false),
            _ => Err(ApiError::Invalid(format!(
                "`{}` must be true or false; found `{}`",
                names.first().copied().unwrap_or_default(),
                shortened(text)
            ))),
        }
    }

    /// An RFC 3339 time. A `+` that was not encoded is read as the sign that was meant.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.text(&[name]) else {
            return Ok(None);
        };
        Timestamp::parse_rfc3339(&text.replace(' ', "+"))
            .map(Some)
            .map_err(|_| {
                ApiError::Invalid(format!(
                    "`{name}` must be an RFC 3339 time such as `2026-01-31T12:00:00Z`; found `{}`",
                    shortened(text)
                ))
            })
    }

    /// The query again, with `page` and `page_size` replaced.
    pub fn with_page(&self, page: u64, page_size: u32) -> String {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let mut text = format!("page={page}&page_size={page_size}");
        for (name, value) in &self.pairs {
            if name != "page" && name != "page_size" {
                let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
                text.extend(["&", &name.to_string(), "=", &value.to_string()]);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_checked() {
        let query = Query::of(&Uri::from_static(
            "/x?a=b%20c+d&page=0&on=TRUE&t=2026-01-31T13:00:00+01:00&empty=",
        ));
        assert_eq!(query.text(&["a"]), Some("b c d"));
        assert!(query.count("page").is_err());
        assert_eq!(query.count("empty").unwrap(), None);
        assert!(query.switch(&["on"]).unwrap());
        assert_eq!(
            query.time("t").unwrap().unwrap().to_rfc3339(),
            "2026-01-31T12:00:00Z"
        );
    }
}
