//! What was found, as Pingora's cache phases read it: they answer conditional requests, ranges, HEAD and `Age`.
//!
//! The search itself is over when they begin (it knows variants, running fills and what the request accepts), so this
//! storage hands out what travels in the extensions of the `CacheKey`.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::storage::{
    HandleHit, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{CacheKey, CacheMeta};
use pingora_core::{Error, ErrorType, Result};

use super::answer::Answer;
use super::fill::FillReader;
use crate::domain::Clock;

/// An answer from the cache.
#[derive(Debug, Clone)]
pub struct Chosen(pub(super) Source);

#[derive(Debug, Clone)]
pub(super) enum Source {
    /// From the store.
    Whole(Arc<Answer>),
    /// From a fill that runs.
    Running(FillReader),
}

/// Hands out what was chosen.
pub(super) struct ChosenStorage {
    clock: Arc<dyn Clock>,
}

impl ChosenStorage {
    /// Never to be freed, as Pingora demands.
    pub(super) fn leak(clock: Arc<dyn Clock>) -> &'static Self {
        Box::leak(Box::new(Self { clock }))
    }
}

#[async_trait]
impl Storage for ChosenStorage {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(Chosen(source)) = key.extensions.get::<Chosen>().cloned() else {
            return Ok(None);
        };
        Ok(Some(match source {
            Source::Whole(answer) => (
                answer.head.meta(&*self.clock),
                Box::new(WholeHit::new(answer.body.clone())) as HitHandler,
            ),
            Source::Running(reader) => (
                reader.fill.head.meta(&*self.clock),
                Box::new(FillHit(reader)) as HitHandler,
            ),
        }))
    }

    /// Misses are filled by the forwarding loop itself.
    async fn get_miss_handler(
        &'static self,
        _: &CacheKey,
        _: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        Error::e_explain(ErrorType::InternalError, "fills do not go Pingora's way")
    }

    async fn purge(&'static self, _: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, _: &CacheKey, _: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        Ok(false)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// The reader of a whole answer, any range of it too.
struct WholeHit {
    whole: Bytes,
    unread: Option<Bytes>,
}

impl WholeHit {
    fn new(body: Bytes) -> Self {
        Self {
            unread: Some(body.clone()).filter(|body| !body.is_empty()),
            whole: body,
        }
    }
}

#[async_trait]
impl HandleHit for WholeHit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.unread.take())
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let end = end.unwrap_or(self.whole.len()).min(self.whole.len());
        if start >= end {
            return Error::e_explain(ErrorType::InternalError, "a range outside of what is stored");
        }
        self.unread = Some(self.whole.slice(start..end));
        Ok(())
    }

    fn get_eviction_weight(&self) -> usize {
        self.whole.len()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

struct FillHit(FillReader);

#[async_trait]
impl HandleHit for FillHit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.0.read().await
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}
