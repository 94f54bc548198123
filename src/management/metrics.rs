//! The metrics paths: JSON for people and scripts, Prometheus text for scrapers.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::answer::{JSON, json_bytes};
use super::error::ApiError;
use super::own_paths::{Head, OwnResponse, refusal};
use super::ports::MetricsView;
use super::settings::ManagementSettings;

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What a metrics path answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON, unless `Accept` asks for text.
    Negotiated,
    /// Prometheus text.
    Prometheus,
}

/// Whether `path` is a metrics path, and of which format.
pub fn format_of(settings: &ManagementSettings, path: &str) -> Option<Format> {
    if !settings.metrics_enabled {
        return None;
    }
    match path.strip_prefix(settings.metrics_path.as_str())? {
        "" => Some(Format::Negotiated),
        "/prometheus" => Some(Format::Prometheus),
        _ => None,
    }
}

/// Answers a metrics path.
pub(super) fn answer(metrics: &dyn MetricsView, head: &Head, format: Format) -> OwnResponse {
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut response = refusal(&ApiError::MethodNotAllowed);
        response
            .headers
            .insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let text = format == Format::Prometheus || prefers_text(&head.headers);
    let mut response = OwnResponse {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: if text {
            metrics.prometheus().into()
        } else {
            json_bytes(&metrics.json())
        },
    };
    let content_type = if text { PROMETHEUS_TEXT } else { JSON };
    response.headers.insert(header::CONTENT_TYPE, content_type);
    response
}

/// Whether `Accept` names a text format of metrics with more weight than JSON.
fn prefers_text(headers: &HeaderMap) -> bool {
    let mut text: f32 = 0.0;
    let mut json: f32 = 0.0;
    let lines = headers.get_all(header::ACCEPT).iter();
    let ranges = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts
            .filter_map(|part| part.strip_prefix("q="))
            .find_map(|weight| weight.parse::<f32>().ok())
            .unwrap_or(1.0);
        match kind.as_str() {
            "text/plain" | "application/openmetrics-text" => text = text.max(weight),
            "application/json" | "application/*" | "*/*" => json = json.max(weight),
            _ => {}
        }
    }
    text > json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_text_and_everybody_else_json() {
        let table = [
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                true,
            ),
            ("text/plain", true),
            ("*/*", false),
            ("application/json, text/plain, */*", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("application/json", false),
        ];
        for (accept, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_text(&headers), expected, "{accept}");
        }
        assert!(!prefers_text(&HeaderMap::new()));
    }
}
