//! `max_requests` on PostgreSQL: one conditional `UPDATE` shared by all callers of a token who wait at the same time.
//!
//! While a statement for a token is under way, those who ask for the same token gather; the next statement asks for as
//! many as they are and is told how many it got. The cap is read in the statement itself, so no instance is ever behind.
//! If the outcome of a statement is unknown its grants are lost, never doubled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_postgres::types::Type;

use super::database::Database;
use crate::domain::TokenId;
use crate::store::columns::signed;
use crate::store::{GrantOutcome, Grants, StoreError};

/// How many may wait for one statement.
const BATCH: usize = 10_000;
/// How many may wait for one token.
const MOST_WAITING: usize = 100_000;

// A lowered cap may lie below what is used already: then nothing is granted and nothing changes.
const TAKE: &str = "\
WITH before AS (SELECT id, request_count FROM tokens WHERE id = $1 FOR UPDATE)
UPDATE tokens SET request_count = GREATEST(tokens.request_count,
    LEAST(tokens.request_count + $2, COALESCE(tokens.max_requests, 9223372036854775807)))
FROM before WHERE tokens.id = before.id
RETURNING tokens.request_count - before.request_count";

const GIVE_BACK: &str = "\
WITH back AS (SELECT * FROM UNNEST($1, $2) AS back (id, count)),
locked AS (SELECT id FROM tokens WHERE id = ANY($1) ORDER BY id FOR UPDATE)
UPDATE tokens SET request_count = GREATEST(0, tokens.request_count - back.count)
FROM locked JOIN back ON back.id = locked.id WHERE tokens.id = locked.id";

/// Grants of a fleet.
pub(super) struct PostgresGrants {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    /// Present while a statement for the token is under way or about to be.
    waiting: Mutex<HashMap<TokenId, Vec<oneshot::Sender<Taken>>>>,
    returned: Mutex<HashMap<TokenId, i64>>,
    /// Held while returns are on their way.
    returning: tokio::sync::Mutex<()>,
}

enum Taken {
    Granted(Ticket),
    Exhausted,
    Failed(StoreError),
}

/// A grant on its way to the caller; if the caller has gone it returns by itself.
struct Ticket {
    token: TokenId,
    back: Weak<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(shared) = self.back.upgrade() {
            shared.give_back(self.token);
        }
    }
}

impl PostgresGrants {
    pub(super) fn new(database: Database) -> Self {
        Self {
            shared: Arc::new(Shared {
                database,
                waiting: Mutex::new(HashMap::new()),
                returned: Mutex::new(HashMap::new()),
                returning: tokio::sync::Mutex::new(()),
            }),
        }
    }
}

#[async_trait]
impl Grants for PostgresGrants {
    async fn take(&self, token: TokenId, _max_requests: u64) -> Result<GrantOutcome, StoreError> {
        let (send, answer) = oneshot::channel();
        self.shared.join(token, send)?;
        // The statements have time-outs; an error means that the store's runtime has ended.
        match answer.await {
            Ok(Taken::Granted(mut ticket)) => {
                ticket.back = Weak::new();
                Ok(GrantOutcome::Granted)
            }
            Ok(Taken::Exhausted) => Ok(GrantOutcome::Exhausted),
            Ok(Taken::Failed(error)) => Err(error),
            Err(_) => Err(StoreError::Unavailable("the store has stopped".to_owned())),
        }
    }

    async fn give_back(&self, token: TokenId) {
        self.shared.give_back(token);
        // back in the database before the caller goes on; several at once share a statement
        if let Err(error) = self.shared.return_all().await {
            log::warn!("grants that were not used could not be returned: {error}");
        }
    }

    async fn forget(&self, _token: TokenId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.shared.return_all().await
    }
}

impl Shared {
    /// Joins those who wait for the token; the first one starts serving them.
    fn join(self: &Arc<Self>, token: TokenId, waiter: oneshot::Sender<Taken>) -> Result<(), StoreError> {
        match self.waiting.lock().entry(token) {
            Entry::Occupied(mut entry) => {
                if entry.get().len() >= MOST_WAITING {
                    return Err(StoreError::Unavailable("too many grants are waiting".to_owned()));
                }
                entry.get_mut().push(waiter);
            }
            Entry::Vacant(entry) => {
                entry.insert(vec![waiter]);
                let shared = Arc::clone(self);
                self.database
                    .handle()
                    .spawn(async move { shared.serve(token).await });
            }
        }
        Ok(())
    }

    async fn serve(self: Arc<Self>, token: TokenId) {
        while let Some(waiters) = self.next_batch(token) {
            match self.take(token, waiters.len()).await {
                Ok(granted) => self.answer(token, waiters, granted),
                Err(error) => {
                    // Those who came meanwhile would only wait for the same.
                    let others = self.waiting.lock().get_mut(&token).map(std::mem::take);
                    for waiter in waiters.into_iter().chain(others.unwrap_or_default()) {
                        let _ = waiter.send(Taken::Failed(error.clone()));
                    }
                }
            }
        }
    }

    /// Those who still wait; `None` ends the serving.
    fn next_batch(&self, token: TokenId) -> Option<Vec<oneshot::Sender<Taken>>> {
        let mut waiting = self.waiting.lock();
        let all = waiting.get_mut(&token)?;
        all.retain(|waiter| !waiter.is_closed());
        if all.is_empty() {
            waiting.remove(&token);
            return None;
        }
        let rest = all.split_off(all.len().min(BATCH));
        Some(std::mem::replace(all, rest))
    }

    fn answer(self: &Arc<Self>, token: TokenId, waiters: Vec<oneshot::Sender<Taken>>, granted: usize) {
        for (index, waiter) in waiters.into_iter().enumerate() {
            let taken = if index < granted {
                Taken::Granted(Ticket {
                    token,
                    back: Arc::downgrade(self),
                })
            } else {
                Taken::Exhausted
            };
            // An unheard answer drops the ticket, and that gives the grant back.
            let _ = waiter.send(taken);
        }
    }

    async fn take(&self, token: TokenId, wanted: usize) -> Result<usize, StoreError> {
        let granted: Option<i64> = self
            .database
            .run(move |client| {
                Box::pin(async move {
                    let wanted = signed(wanted as u64);
                    let rows = client
                        .query_typed(TAKE, &[(&token.to_string(), Type::TEXT), (&wanted, Type::INT8)])
                        .await?;
                    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
                })
            })
            .await?;
        let granted = granted.ok_or_else(|| StoreError::Inconsistent {
            table: "tokens",
            row: token.to_string(),
            why: "there is no such token".to_owned(),
        })?;
        Ok(usize::try_from(granted).unwrap_or(0))
    }

    fn give_back(self: &Arc<Self>, token: TokenId) {
        let is_first = {
            let mut returned = self.returned.lock();
            let is_first = returned.is_empty();
            *returned.entry(token).or_insert(0) += 1;
            is_first
        };
        if is_first {
            let shared = Arc::clone(self);
            self.database.handle().spawn(async move {
                if let Err(error) = shared.return_all().await {
                    log::warn!("grants that were not used could not be returned: {error}");
                }
            });
        }
    }

    /// Writes what was given back; if that fails it is lost, which is allowed.
    async fn return_all(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.returning.lock().await;
        let returned = std::mem::take(&mut *self.returned.lock());
        if returned.is_empty() {
            return Ok(());
        }
        let (ids, counts): (Vec<String>, Vec<i64>) = returned
            .into_iter()
            .map(|(token, count)| (token.to_string(), count))
            .unzip();
        self.database
            .run(move |client| {
                Box::pin(async move {
                    client
                        .execute_typed(
                            GIVE_BACK,
                            &[(&ids, Type::TEXT_ARRAY), (&counts, Type::INT8_ARRAY)],
                        )
                        .await?;
                    Ok(())
                })
            })
            .await
    }
}
