//! The reader of a whole answer, any range of it too.

use std::any::Any;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::CacheKey;
use pingora_cache::storage::{HandleHit, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_core::{Error, ErrorType, Result};

pub(super) struct WholeHit {
    whole: Bytes,
    unread: Option<Bytes>,
}

impl WholeHit {
    pub(super) fn new(body: Bytes) -> Self {
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
