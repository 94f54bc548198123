//! Hears what other instances change on the same PostgreSQL.
//!
//! Writers bump a counter and send a notification with it, both in the transaction of the change. This task listens on a
//! connection of its own and also reads the counter four times a second. So it notices within a second that a
//! notification was missed or that none ever come (a pooler swallows `LISTEN`), and within the time-out that the
//! connection is dead. Whatever was or may have been missed becomes [`Changed::Everything`]; so does every new
//! connection. An instance hears its own changes too, which does no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::{ChangeListener, Changed};
use crate::domain::spawn::spawn;

const LISTEN: &str = "LISTEN llm_proxy_changes";
const COUNTER: &str = "SELECT value FROM change_counter WHERE id = 1";
const POLL_EVERY: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Notifications that wait to be told; more than that are one `Everything`.
const QUEUE: usize = 1024;

/// What a connection hears; polling it drives the connection.
pub type Messages = BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>;

/// Makes a connection of its own to the database where changes are announced, in bounded time.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, Result<(Client, Messages), String>> + Send + Sync>;

/// The task that listens.
pub struct PostgresChanges {
    /// How to connect.
    pub connect: Connect,
    /// Who is told.
    pub listener: Arc<dyn ChangeListener>,
    /// How long the server may take to answer before the connection counts as dead.
    pub timeout: Duration,
}

/// A notification.
struct Heard {
    change: Changed,
    /// The counter after the change; absent when the text is not ours.
    counter: Option<i64>,
}

impl PostgresChanges {
    /// Listens until the task is aborted, connecting again whenever it has to. Run it on the store's runtime.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut is_reported = false;
        loop {
            let mut was_connected = false;
            let why = match self.listen(&mut was_connected).await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            if was_connected {
                pause = FIRST_PAUSE;
                is_reported = false;
            }
            if !is_reported {
                is_reported = true;
                log::warn!("changes of other instances are not heard until PostgreSQL is back: {why}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn listen(&self, was_connected: &mut bool) -> Result<std::convert::Infallible, String> {
        let (client, messages) = (self.connect)().await?;
        let (send, mut heard) = mpsc::channel(QUEUE);
        let overflowed = Arc::new(AtomicBool::new(false));
        let driver = drive(messages, send, Arc::clone(&overflowed));
        let _driver = AbortOnDrop(spawn("fleet-connection", driver));
        let mut place = Place {
            // Without it the counter still tells.
            hears: self.answer(client.batch_execute(LISTEN)).await.is_ok(),
            counter: 0,
            is_behind: false,
        };
        place.counter = self.counter(&client).await?;
        // In this order: what changed before is covered by this, what changes from now on is heard or seen.
        self.listener.changed(Changed::Everything);
        *was_connected = true;
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = heard.recv() => {
                    let message = message.ok_or("the connection was closed")?;
                    self.tell(&message, &mut place);
                }
                _ = ticks.tick() => {
                    let counter = self.counter(&client).await?;
                    while let Ok(message) = heard.try_recv() {
                        self.tell(&message, &mut place);
                    }
                    if overflowed.swap(false, Ordering::AcqRel) || place.missed(counter) {
                        place.counter = counter;
                        self.listener.changed(Changed::Everything);
                    }
                }
            }
        }
    }

    fn tell(&self, message: &Heard, place: &mut Place) {
        if let Some(counter) = message.counter {
            place.counter = place.counter.max(counter);
        }
        place.hears = true;
        self.listener.changed(message.change);
    }

    async fn counter(&self, client: &Client) -> Result<i64, String> {
        let row = self.answer(client.query_typed_one(COUNTER, &[])).await?;
        row.try_get(0).map_err(|error| error.to_string())
    }

    async fn answer<T>(
        &self,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.timeout, question).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// How far this instance has heard.
struct Place {
    /// Whether notifications arrive.
    hears: bool,
    counter: i64,
    /// The counter was ahead at the last look already.
    is_behind: bool,
}

impl Place {
    /// Whether a change was missed. A notification may come a moment after its change is seen, so while they arrive the
    /// first look gives it until the next one.
    fn missed(&mut self, counter: i64) -> bool {
        if counter == self.counter {
            self.is_behind = false;
            return false;
        }
        if self.hears && !self.is_behind && counter > self.counter {
            self.is_behind = true;
            return false;
        }
        if self.hears {
            log::info!("notifications of PostgreSQL do not arrive (a pooler?); changes are polled");
        }
        self.hears = false;
        self.is_behind = false;
        true
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drive(mut messages: Messages, heard: mpsc::Sender<Heard>, overflowed: Arc<AtomicBool>) {
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notification(notification) = message
            && let Err(mpsc::error::TrySendError::Full(_)) = heard.try_send(parse(notification.payload()))
        {
            overflowed.store(true, Ordering::Release);
        }
    }
}

/// `token <uuid> <counter>` or `project <uuid> <counter>`; anything else may be of a newer version: everything.
fn parse(payload: &str) -> Heard {
    let mut words = payload.split(' ');
    let (kind, id, counter) = (words.next(), words.next(), words.next());
    let change = match (kind, id) {
        (Some("token"), Some(id)) => id.parse().ok().map(Changed::Token),
        (Some("project"), Some(id)) => id.parse().ok().map(Changed::Project),
        _ => None,
    };
    Heard {
        change: change.unwrap_or(Changed::Everything),
        counter: counter.and_then(|counter| counter.parse().ok()),
    }
}

#[cfg(test)]
#[path = "../store/postgres/private_server.rs"]
#[expect(
    dead_code,
    clippy::duplicate_mod,
    reason = "the server of the store's tests, without an arrow to the store"
)]
mod private_server;
#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
#[cfg(test)]
use tokio_postgres::{Config, NoTls};
