//! Metrics as Prometheus text and as JSON.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Metrics;

impl Metrics {
    /// Prometheus text, format 0.0.4.
    pub fn prometheus(&self) -> String {
        self.declared.uptime.set(self.uptime().as_secs_f64());
        let mut text = String::new();
        if let Err(error) =
            prometheus::TextEncoder::new().encode_utf8(&self.declared.registry.gather(), &mut text)
        {
            log::error!(error:% = error; "metrics could not be written: {error}");
        }
        let mut before = "";
        for connected in self.sources.lock().iter() {
            let shown = connected.source.shown();
            // writing to a `String` cannot fail
            if shown.name != before {
                let _ = writeln!(text, "# HELP llm_proxy_{} {}", shown.name, shown.help);
                let _ = writeln!(text, "# TYPE llm_proxy_{} {}", shown.name, shown.kind);
                before = shown.name;
            }
            let _ = writeln!(
                text,
                "llm_proxy_{}{} {}",
                shown.name,
                shown.labels,
                (connected.read)()
            );
        }
        text
    }

    /// The JSON of `METRICS_PATH`.
    pub fn json(&self) -> Value {
        json!({
            "uptime_seconds": self.uptime().as_secs_f64(),
            "request_count": self.requests.load(Ordering::Relaxed),
            "error_count": self.errors.load(Ordering::Relaxed),
            "cache_hits": self.declared.cache_hits.get(),
            "cache_misses": self.declared.cache_misses.get(),
            "cache_bypass": self.declared.cache_bypass.get(),
            "cache_stores": self.declared.cache_stores.get(),
        })
    }
}
