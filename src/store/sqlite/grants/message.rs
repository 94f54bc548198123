//! What the grants' thread is asked, and how it answers.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::domain::TokenId;
use crate::store::StoreError;
use crate::store::sqlite::grant_counters::Base;

pub(super) enum Message {
    /// Those of one turn of a worker's loop; `done` hears once each has its answer.
    Take {
        takes: Vec<Take>,
        done: Option<oneshot::Sender<()>>,
    },
    GiveBack(TokenId),
    Fold {
        also: Option<TokenId>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Folded(Result<Vec<(TokenId, u64)>, StoreError>),
    Stop(oneshot::Sender<()>),
}

pub(super) struct Take {
    pub(super) token: TokenId,
    pub(super) cap: u64,
    pub(super) base: Option<Base>,
    pub(super) answer: Arc<Answer>,
}

/// Where an answer is put for a caller who is woken with others. Unheard it goes with the caller, and its ticket returns.
#[derive(Default)]
pub(super) struct Answer(Mutex<Option<Taken>>);

impl Answer {
    pub(super) fn put(&self, taken: Taken) {
        *self.0.lock() = Some(taken);
    }

    pub(super) fn get(&self) -> Option<Taken> {
        self.0.lock().take()
    }
}

pub(super) enum Taken {
    Granted(Ticket),
    Exhausted,
    Unknown { epoch: u64 },
    Failed(StoreError),
}

/// A grant on its way to the caller; if the caller has gone it returns by itself.
pub(super) struct Ticket {
    pub(super) token: TokenId,
    pub(super) back: Option<Arc<SyncSender<Message>>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // A full queue loses the grant, which is allowed.
            let _ = back.try_send(Message::GiveBack(self.token));
        }
    }
}
