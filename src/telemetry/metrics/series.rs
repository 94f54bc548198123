//! Handles into labelled metrics, found once per set of labels and bounded in number.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::{Counter, Histogram, IntCounter};

use crate::domain::ProjectId;

use super::declared::{Declared, TOKEN_KINDS};
use super::{RequestFacts, RequestLabels};

/// Sets of labels that are told apart; later ones are counted as `other`.
const MAX_SERIES: usize = 2000;

/// What stands for labels above the bound.
const OTHER: &str = "other";

/// What stands for a label that has no value.
const NONE: &str = "none";

/// The handles in use.
#[derive(Default)]
pub(super) struct SeriesCache {
    requests: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    attempts: RwLock<HashMap<Box<str>, Attempts>>,
    hasher: std::hash::RandomState,
    count: std::sync::atomic::AtomicUsize,
}

/// The counters of one provider, by the status it answered.
type Attempts = Vec<(Option<u16>, IntCounter)>;

/// The handles of one set of labels.
pub(super) struct Series {
    project: Option<ProjectId>,
    provider: Box<str>,
    model: Box<str>,
    status: u16,
    requests: IntCounter,
    duration: Histogram,
    time_to_first_byte: Histogram,
    tokens: [IntCounter; TOKEN_KINDS.len()],
    cost: Counter,
}

impl Series {
    pub(super) fn record(&self, facts: &RequestFacts) {
        self.requests.inc();
        self.duration.observe(facts.duration.as_secs_f64());
        if let Some(first_byte) = facts.time_to_first_byte {
            self.time_to_first_byte.observe(first_byte.as_secs_f64());
        }
        let counts = &facts.tokens;
        let by_kind = [
            counts.prompt,
            counts.completion,
            counts.cache_read,
            counts.cache_write,
            counts.reasoning,
        ];
        for (counter, count) in self.tokens.iter().zip(by_kind) {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        if facts.cost_nano_usd > 0 {
            self.cost.inc_by(facts.cost_nano_usd as f64 / 1e9);
        }
    }

    fn has(&self, labels: &RequestLabels<'_>) -> bool {
        self.status == labels.status
            && self.project == labels.project
            && *self.provider == *labels.provider
            && *self.model == *labels.model
    }

    fn new(declared: &Declared, labels: &RequestLabels<'_>, project: &str) -> Self {
        let provider = or_none(labels.provider);
        let model = or_none(labels.model);
        let status = labels.status.to_string();
        Self {
            project: labels.project,
            provider: labels.provider.into(),
            model: labels.model.into(),
            status: labels.status,
            requests: declared
                .requests
                .with_label_values(&[project, provider, model, &status]),
            duration: declared.duration.with_label_values(&[provider, model]),
            time_to_first_byte: declared.time_to_first_byte.with_label_values(&[provider, model]),
            tokens: TOKEN_KINDS.map(|kind| {
                declared
                    .tokens
                    .with_label_values(&[project, provider, model, kind])
            }),
            cost: declared.cost.with_label_values(&[project, provider, model]),
        }
    }
}

impl SeriesCache {
    /// The handles for `labels`, or those that stand for labels above the bound.
    pub(super) fn of(&self, declared: &Declared, labels: RequestLabels<'_>) -> Arc<Series> {
        use std::hash::BuildHasher;
        use std::sync::atomic::Ordering;
        let hash = self
            .hasher
            .hash_one((labels.project, labels.provider, labels.model, labels.status));
        let find = |known: &HashMap<u64, Vec<Arc<Series>>>| {
            known
                .get(&hash)?
                .iter()
                .find(|series| series.has(&labels))
                .cloned()
        };
        if let Some(series) = find(&self.requests.read()) {
            return series;
        }
        if self.count.load(Ordering::Relaxed) >= MAX_SERIES {
            return Arc::new(Series::new(
                declared,
                &RequestLabels {
                    provider: OTHER,
                    model: OTHER,
                    ..labels
                },
                OTHER,
            ));
        }
        let mut known = self.requests.write();
        if let Some(series) = find(&known) {
            return series;
        }
        let project = labels
            .project
            .map_or_else(|| NONE.to_owned(), |project| project.to_string());
        let series = Arc::new(Series::new(declared, &labels, &project));
        known.entry(hash).or_default().push(Arc::clone(&series));
        self.count.fetch_add(1, Ordering::Relaxed);
        series
    }

    /// The counter of tries at `provider` that ended with `status`.
    pub(super) fn attempts(&self, declared: &Declared, provider: &str, status: Option<u16>) -> IntCounter {
        let find = |known: &HashMap<Box<str>, Attempts>| {
            let (_, counter) = known.get(provider)?.iter().find(|(known, _)| *known == status)?;
            Some(counter.clone())
        };
        if let Some(counter) = find(&self.attempts.read()) {
            return counter;
        }
        let mut known = self.attempts.write();
        if known.len() >= MAX_SERIES && !known.contains_key(provider) {
            return declared.attempts.with_label_values(&[OTHER, OTHER]);
        }
        let text = status.map_or_else(|| NONE.to_owned(), |status| status.to_string());
        let counter = declared.attempts.with_label_values(&[or_none(provider), &text]);
        if find(&known).is_none() {
            known
                .entry(provider.into())
                .or_default()
                .push((status, counter.clone()));
        }
        counter
    }
}

fn or_none(label: &str) -> &str {
    if label.is_empty() { NONE } else { label }
}
