//! Have we answered this before: freshness rules, keys and the bounded memory store.
//!
//! In the order of a request: [`Plan::of`] and [`EntryKey::of`] (admission) → [`ResponseCache::ask`] and, when another
//! request asks the provider the same, [`Waiting::answer`] → a hit goes through Pingora's cache phases
//! ([`ResponseCache::enable`], [`EntryKey::to_pingora`]); everything else is forwarded: [`storable`] and
//! [`ResponseCache::begin`] (the loop has the answer's head) → [`Writer::write`] for each piece → [`Writer::finish`] after
//! a whole answer, else the writer is dropped. A 304 to our own conditional request goes to [`ResponseCache::refresh`].

mod answer;
mod canonical;
mod complete;
mod fill;
mod flights;
pub mod key;
pub mod memory;
pub mod outcome;
pub mod policy;
pub mod purge;
mod storage;
mod vary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, header};
use pingora_cache::{CacheKey, HttpCache};
use pingora_http::ResponseHeader;
use tokio::sync::watch;

pub use answer::{Answer, Validators};
pub use canonical::canonical_json;
pub use flights::{Follower, Lead};
pub use key::{EntryKey, KeyParts};
pub use memory::{MemoryStore, StoreStats, Writer};
pub use outcome::{CacheOutcome, Forwarded};
pub use policy::{
    AnswerFacts, Bypass, Framing, Lookup, NotStored, Plan, RuleFacts, Storable, Wish, not_cached, storable,
};
pub use purge::Purge;
pub use storage::Chosen;

use self::flights::{FAILED_LEADERS, Flight, Flights, Joined};
use self::storage::{ChosenStorage, Source};
use crate::domain::{Clock, ProjectId};

/// How often a request may find that what it waited for answers another question (a variant), before it asks for itself.
const MOST_ROUNDS: u32 = 8;

/// The cache of the process.
pub struct ResponseCache {
    store: Arc<MemoryStore>,
    storage: &'static ChosenStorage,
    flights: Arc<Flights>,
    clock: Arc<dyn Clock>,
    hits: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
    stores: AtomicU64,
}

/// What operators see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Answers from the cache, our 304 included.
    pub hits: u64,
    /// Looked up and not found, whether stored afterwards or not.
    pub misses: u64,
    /// Not looked up.
    pub bypasses: u64,
    /// Answers whose storing began.
    pub stores: u64,
    /// Hits that waited for, or read, the answer to another request that was under way.
    pub coalesced: u64,
    /// Requests that wait for such an answer, or read it.
    pub followers: u64,
    /// The store itself.
    pub store: StoreStats,
}

/// A request that is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Its key.
    pub key: &'a EntryKey,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// What it allows.
    pub lookup: Lookup,
    /// Whether it may be answered by another one's call.
    pub coalesce: bool,
}

/// What the cache says to a request.
#[derive(Debug)]
pub enum Said {
    /// Here is an answer.
    Hit {
        /// Which.
        chosen: Chosen,
        /// Keeps the leader's call going while it is read.
        follower: Option<Follower>,
    },
    /// The provider is to be asked.
    Forward(Forward),
    /// Another request asks: wait for it.
    Wait(Waiting),
}

/// How the provider is to be asked.
#[derive(Debug)]
pub struct Forward {
    /// Why.
    pub why: Forwarded,
    /// What may be asked about instead of fetched: it has validators.
    pub stale: Option<Arc<Answer>>,
    /// Others may wait for the answer.
    pub lead: Option<Lead>,
}

/// A request that waits for another one's answer.
#[derive(Debug)]
pub struct Waiting {
    follower: Follower,
    rounds: u32,
    failed_leaders: u32,
}

/// Header fields that belong to one exchange or to our own answer and are never stored.
const NOT_STORED: [&str; 24] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
    "server",
    "alt-svc",
    "strict-transport-security",
    "nel",
    "report-to",
    "age",
    "x-request-id",
    "request-id",
    "openai-organization",
    "openai-project",
    "openai-processing-ms",
    "anthropic-organization-id",
    "cache-status",
    "x-proxy",
];

const NOT_STORED_PREFIXES: [&str; 7] = [
    "access-control-",
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "retry-after",
    "x-llm-proxy-",
    "x-proxy-",
    "proxy-",
];

impl ResponseCache {
    /// A cache of at most `max_size_bytes`. It lives as long as the process.
    pub fn new(max_size_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        Self {
            store: Arc::new(MemoryStore::new(max_size_bytes, Arc::clone(&clock))),
            storage: ChosenStorage::leak(Arc::clone(&clock)),
            flights: Flights::new(Arc::clone(&clock)),
            clock,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bypasses: AtomicU64::new(0),
            stores: AtomicU64::new(0),
        }
    }

    /// Looks a request up.
    pub fn ask(&self, question: Question<'_>) -> Said {
        self.ask_again(question, 0, 0)
    }

    fn ask_again(&self, question: Question<'_>, rounds: u32, failed_leaders: u32) -> Said {
        let (hash, mut forward) = match self.look(question) {
            Ok(hit) => return hit,
            Err(known) => known,
        };
        let Lookup {
            may_store,
            refresh,
            only_if_cached,
            ..
        } = question.lookup;
        let alone = !question.coalesce || !may_store || refresh || only_if_cached;
        if alone || rounds >= MOST_ROUNDS || failed_leaders >= FAILED_LEADERS {
            return Said::Forward(forward);
        }
        match self.flights.join(hash) {
            Joined::Alone => Said::Forward(forward),
            Joined::Follow(follower) => Said::Wait(Waiting {
                follower,
                rounds,
                failed_leaders,
            }),
            Joined::Lead(lead) => {
                // the one before may have ended between the two looks
                if let Ok(hit) = self.look(question) {
                    lead.stored();
                    return hit;
                }
                forward.lead = Some(lead);
                Said::Forward(forward)
            }
        }
    }

    fn look(&self, question: Question<'_>) -> Result<Said, ([u8; 16], Forward)> {
        let known = self.store.look(question.key, question.headers);
        let now = self.clock.monotonic();
        let forward = |why, stale| {
            let forward = Forward {
                why,
                stale,
                lead: None,
            };
            (known.hash, forward)
        };
        let Some(answer) = known.answer else {
            let why = if question.lookup.refresh {
                Forwarded::Request
            } else if known.other_variants {
                Forwarded::VaryMiss
            } else {
                Forwarded::UriMiss
            };
            return Err(forward(why, None));
        };
        let fresh_for = answer.head.fresh_for(now);
        if !fresh_for.is_zero() && question.lookup.accepts(answer.head.age(now), fresh_for) {
            return Ok(Said::Hit {
                chosen: Chosen(Source::Whole(answer)),
                follower: None,
            });
        }
        let why = if question.lookup.refresh || !fresh_for.is_zero() {
            Forwarded::Request
        } else {
            Forwarded::Stale
        };
        let can_be_asked_about = question.lookup.may_revalidate && answer.validators().is_some();
        Err(forward(why, can_be_asked_about.then_some(answer)))
    }

    /// Turns Pingora's cache phases on for a request that was found.
    pub fn enable(&self, cache: &mut HttpCache) {
        if !cache.enabled() {
            cache.enable(self.storage, None, None, None, None);
        }
    }

    /// Begins to store an answer to a request with these fields. `head` is the provider's; what must not be stored is left
    /// out here. Whoever waits for `lead` reads it as it comes.
    pub fn begin(
        &self,
        key: &EntryKey,
        request: &HeaderMap,
        head: &ResponseHeader,
        answer: &Storable,
        max_object_bytes: u64,
        lead: Option<&Lead>,
    ) -> Writer {
        let writer = self
            .store
            .begin(key, request, stored_head(head), answer, max_object_bytes);
        if let Some(lead) = lead {
            lead.runs(Arc::clone(writer.fill()));
        }
        self.stores.fetch_add(1, Ordering::Relaxed);
        writer
    }

    /// The provider says that a kept answer still holds: what is to be given back, and, unless what it says now forbids
    /// it, kept. `judge` is asked about the new head.
    pub fn refresh(
        &self,
        stale: &Arc<Answer>,
        request: &HeaderMap,
        not_modified: &ResponseHeader,
        judge: impl FnOnce(&ResponseHeader) -> Result<Storable, NotStored>,
    ) -> (Arc<Answer>, Result<(), NotStored>) {
        let head = stale.refreshed_head(&stored_head(not_modified));
        match judge(&head) {
            Ok(storable) => (self.store.refresh(stale, request, head, &storable), Ok(())),
            Err(why) => {
                self.store.remove(stale);
                (Arc::clone(stale), Err(why))
            }
        }
    }

    /// An unsafe request to this address was answered without an error: what GET was answered there holds no more
    /// (RFC 9111 §4.4).
    pub fn invalidate(&self, project: ProjectId, path: &str, query: Option<&str>) {
        if self.store.may_have_gets() {
            let url = query.map_or_else(|| path.to_owned(), |query| [path, "?", query].concat());
            self.purge(&Purge::address("GET", &url, Some(project)));
        }
    }

    /// Counts what became of a request.
    pub fn count(&self, outcome: CacheOutcome) {
        let counter = match outcome {
            CacheOutcome::Hit | CacheOutcome::ConditionalHit => &self.hits,
            CacheOutcome::Stored { .. } | CacheOutcome::Revalidated { .. } | CacheOutcome::Miss { .. } => {
                &self.misses
            }
            CacheOutcome::Bypass(_) => &self.bypasses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes entries and answers how many.
    pub fn purge(&self, purge: &Purge) -> u64 {
        let removed = self.store.purge_entries(purge);
        self.flights.forget_running();
        removed
    }

    /// What operators see.
    pub fn stats(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            bypasses: read(&self.bypasses),
            stores: read(&self.stores),
            coalesced: self.flights.coalesced(),
            followers: self.flights.followers(),
            store: self.store.stats(),
        }
    }
}

impl Waiting {
    /// What the other one's call has come to: an answer, or what is to be done instead. Cancel-safe in that nothing is
    /// lost but the wait.
    pub async fn answer(mut self, cache: &ResponseCache, question: Question<'_>) -> Said {
        let known = self.follower.known().await;
        let (mut rounds, mut failed_leaders) = (self.rounds + 1, self.failed_leaders);
        match known {
            Flight::Running(fill) if !fill.has_failed() => {
                let now = cache.clock.monotonic();
                let same_variant = cache.store.look(question.key, question.headers).hash == fill.hash;
                let fresh_for = fill.head.fresh_for(now);
                if same_variant
                    && !fresh_for.is_zero()
                    && question.lookup.accepts(fill.head.age(now), fresh_for)
                {
                    cache.flights.count_coalesced();
                    return Said::Hit {
                        chosen: Chosen(Source::Running(fill.reader())),
                        follower: Some(self.follower),
                    };
                }
                if same_variant {
                    // not good enough for this request, and will not become so
                    rounds = MOST_ROUNDS;
                }
            }
            Flight::Unshared => rounds = MOST_ROUNDS,
            Flight::Failed { reached: true } | Flight::Running(_) => failed_leaders += 1,
            Flight::Failed { reached: false } => rounds -= 1,
            Flight::Stored | Flight::Waiting => {}
        }
        drop(self.follower);
        let said = cache.ask_again(question, rounds, failed_leaders);
        if matches!(said, Said::Hit { .. }) {
            cache.flights.count_coalesced();
        }
        said
    }
}

/// Who still wants an answer whose own client has left.
#[derive(Debug)]
pub struct Audience {
    followers: Option<watch::Receiver<usize>>,
    kept_for_the_request: bool,
}

impl Audience {
    /// Of a call: those who wait for it, and the store itself when the request asked for its answer to be kept.
    pub fn of(lead: Option<&Lead>, lookup: Lookup) -> Self {
        Self {
            followers: lead.map(Lead::audience),
            kept_for_the_request: lookup.wish == Some(Wish::Request),
        }
    }

    /// Whether somebody wants it.
    pub fn is_there(&self) -> bool {
        self.kept_for_the_request || self.followers.as_ref().is_some_and(|count| *count.borrow() > 0)
    }

    /// Waits until nobody wants it any more.
    pub async fn gone(&mut self) {
        if self.kept_for_the_request {
            return std::future::pending().await;
        }
        if let Some(followers) = &mut self.followers {
            // an error: the call is over
            let _ = followers.wait_for(|count| *count == 0).await;
        }
    }
}

impl EntryKey {
    /// Pingora's form, with what was found under it.
    pub fn to_pingora(&self, chosen: Chosen) -> CacheKey {
        let mut key = CacheKey::new(Vec::new(), String::new());
        key.set_primary_bin_override(self.hash);
        key.extensions.insert(chosen);
        key
    }
}

/// A head as it is stored: without what belongs to one exchange, one client or our own answers.
fn stored_head(head: &ResponseHeader) -> ResponseHeader {
    let mut stored = head.clone();
    let nominated: Vec<String> = head
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let unwanted: Vec<String> = head
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| {
            NOT_STORED.contains(name)
                || NOT_STORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || nominated.iter().any(|nominated| nominated == name)
        })
        .map(str::to_owned)
        .collect();
    for name in unwanted {
        stored.remove_header(name.as_str());
    }
    stored
}

#[cfg(test)]
mod tests;
