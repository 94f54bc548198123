//! The cache's part in one request: what was asked of it, what came of it, and the fill of a miss.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::HeaderValue;
use pingora_http::ResponseHeader;

use crate::cache::{
    Answer, Audience, CacheOutcome, Chosen, EntryKey, Follower, Forward, Forwarded, Lead, Lookup,
    ResponseCache, Storable, Writer,
};

/// The cache's part in one request.
#[derive(Debug, Default)]
pub struct CacheState {
    /// What the request allows; `None`: it is not looked up.
    pub lookup: Option<Lookup>,
    /// Under which key.
    pub key: Option<EntryKey>,
    /// What answers it.
    pub chosen: Option<Chosen>,
    /// Holds the call of another request that is read.
    pub follower: Option<Follower>,
    /// How the provider is asked, when nothing answers it.
    pub forward: Option<Forward>,
    /// What came of it; `None` for refusals, which carry no cache fields.
    pub outcome: Option<CacheOutcome>,
}

impl CacheState {
    /// Adds `X-PROXY-CACHE`, `Cache-Status` and, when exposed, the key.
    pub(super) fn decorate(
        &self,
        exposed: bool,
        key_exposed: bool,
        answer: &mut ResponseHeader,
    ) -> pingora_core::Result<()> {
        let Some(outcome) = self.outcome else {
            return Ok(());
        };
        if exposed {
            answer.insert_header("x-proxy-cache", HeaderValue::from_static(outcome.as_str()))?;
            answer.insert_header("cache-status", &*outcome.cache_status())?;
        }
        if key_exposed && let Some(key) = &self.key {
            answer.insert_header("x-proxy-cache-key", key.to_string())?;
        }
        Ok(())
    }

    /// Why the provider is asked.
    pub(super) fn why(&self) -> Forwarded {
        self.forward
            .as_ref()
            .map_or(Forwarded::UriMiss, |forward| forward.why)
    }

    /// A miss whose answer is not stored.
    pub(super) fn miss(&mut self) {
        if self.lookup.is_some() {
            self.outcome = Some(CacheOutcome::Miss {
                forwarded: self.why(),
            });
        }
    }

    /// What the provider can be asked about instead of fetching it.
    pub(super) fn stale(&self) -> Option<&Arc<Answer>> {
        self.forward.as_ref()?.stale.as_ref()
    }

    /// Who wants the answer though its own client has left.
    pub(super) fn audience(&self) -> Option<Audience> {
        let lookup = self.lookup.filter(|lookup| lookup.may_store)?;
        let lead = self.forward.as_ref()?.lead.as_ref();
        Some(Audience::of(lead, lookup))
    }
}

/// The fill of a miss by the answer that goes to the client. Its troubles never touch the answer.
#[derive(Default)]
pub(crate) struct Fill {
    possible: bool,
    lead: Option<Lead>,
    writer: Option<Writer>,
    max_object_bytes: u64,
}

impl Fill {
    /// No fill has begun. Dropped without one, those who wait know that no answer came.
    pub(crate) fn idle(state: &mut CacheState) -> Self {
        Self {
            possible: state.lookup.is_some_and(|lookup| lookup.may_store) && state.key.is_some(),
            lead: state.forward.as_mut().and_then(|forward| forward.lead.take()),
            ..Self::default()
        }
    }

    /// Whether the request was looked up and missed, so that its answer may be stored.
    pub(crate) fn is_possible(&self) -> bool {
        self.possible
    }

    /// The request leaves for a provider.
    pub(crate) fn reached(&mut self) {
        if let Some(lead) = &mut self.lead {
            lead.reached();
        }
    }

    /// Begins to store.
    pub(crate) fn begin(
        &mut self,
        cache: &ResponseCache,
        key: &EntryKey,
        request: &HeaderMap,
        head: &ResponseHeader,
        answer: &Storable,
        max_object_bytes: u64,
    ) {
        let writer = cache.begin(key, request, head, answer, max_object_bytes, self.lead.as_ref());
        self.writer = Some(writer);
        self.max_object_bytes = max_object_bytes;
    }

    /// How far the provider may be read ahead of the client, for those who follow; `None`: nobody can.
    pub(crate) fn read_ahead_bytes(&self) -> Option<u64> {
        (self.lead.is_some() && self.writer.is_some()).then_some(self.max_object_bytes)
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &Bytes) {
        let Some(writer) = &mut self.writer else { return };
        let kept = writer.is_kept();
        writer.write(bytes.clone());
        if kept
            && !writer.is_kept()
            && let Some(lead) = &self.lead
        {
            lead.close();
        }
    }

    /// The answer was whole: keeps it.
    pub(crate) fn finish(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.finish();
        }
        self.lead = None;
    }

    /// The answer has ended cleanly and is not one to be kept.
    pub(crate) fn finish_unkept(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.finish_unkept();
        }
        self.lead = None;
    }

    /// The answer is not to be stored; the others ask for themselves.
    pub(crate) fn unshared(&mut self) {
        self.possible = false;
        if let Some(lead) = self.lead.take() {
            lead.unshared();
        }
    }

    /// The store has the answer by another way.
    pub(crate) fn stored(&mut self) {
        if let Some(lead) = self.lead.take() {
            lead.stored();
        }
    }

    /// The answer was not whole. Its readers get these last words and no clean end.
    pub(crate) fn break_off(&mut self, last_words: Option<Bytes>) {
        self.possible = false;
        if let Some(writer) = self.writer.take() {
            writer.break_off(last_words);
        }
        self.lead = None;
    }

    /// The answer was not whole, or there is none.
    pub(crate) fn abandon(&mut self) {
        self.break_off(None);
    }
}
