//! The pool, driven by the store's own runtime whoever calls.
//!
//! The data plane has several current-thread runtimes; a connection driven by one of them would stall with it. So each
//! operation is a task of the store's runtime, and callers only wait for its end. An operation that takes longer than
//! the time-out gives up its connection, for what still comes on it belongs to nobody.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls, Socket};

use super::failure::Failure;
use super::tls::Tls;
use super::url::{Attempt, SslMode, Target};
use crate::domain::{Secret, spawn::spawn};
use crate::store::StoreError;

const SET_TIMEOUT: &str = "SELECT set_config('statement_timeout', $1, false)";

/// What a connection of its own hears.
pub type Messages = BoxStream<'static, Result<AsyncMessage, Error>>;

/// Makes connections to one target.
#[derive(Clone)]
pub struct Connector {
    target: Arc<Target>,
    /// Absent where TLS is never used.
    tls: Option<Tls>,
    statement_timeout: Duration,
}

impl Connector {
    /// Reads a libpq URL and the files it names; connects to nothing.
    pub fn new(url: &Secret, timeout: Duration) -> Result<Self, StoreError> {
        let target = Target::parse(url, timeout)?;
        let needs_tls = target.mode != SslMode::Disable;
        let tls = needs_tls.then(|| Tls::of(&target)).transpose()?;
        Ok(Self {
            target: Arc::new(target),
            tls,
            statement_timeout: timeout,
        })
    }

    /// A connection outside the pool, for listening: its client, and the messages that drive it. Call it on the
    /// store's runtime.
    pub async fn dedicated(&self) -> Result<(Client, Messages), StoreError> {
        match tokio::time::timeout(self.statement_timeout, self.open()).await {
            Ok(opened) => opened.map_err(|error| self.named(Failure::Postgres(error))),
            Err(_) => Err(late(self.statement_timeout)),
        }
    }

    async fn open(&self) -> Result<(Client, Messages), Error> {
        let (first, second) = self.target.attempts();
        match (self.attempt(first).await, second) {
            (Err(_), Some(second)) => self.attempt(second).await,
            (opened, _) => opened,
        }
    }

    async fn attempt(&self, attempt: Attempt) -> Result<(Client, Messages), Error> {
        match &self.tls {
            Some(tls) if attempt.with_tls => {
                let (client, connection) = attempt.config.connect(tls.clone()).await?;
                Ok((client, messages(connection)))
            }
            _ => {
                let (client, connection) = attempt.config.connect(NoTls).await?;
                Ok((client, messages(connection)))
            }
        }
    }

    fn named(&self, failure: Failure) -> StoreError {
        match failure.named() {
            StoreError::Unavailable(text) => StoreError::Unavailable(self.target.redacted(&text)),
            other => other,
        }
    }
}

fn late(limit: Duration) -> StoreError {
    StoreError::Unavailable(format!("PostgreSQL did not answer within {limit:?}"))
}

fn messages<T>(mut connection: Connection<Socket, T>) -> Messages
where
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    Box::pin(futures_util::stream::poll_fn(move |context| {
        connection.poll_message(context)
    }))
}

/// Drives a connection until it ends.
pub(super) async fn drive(mut messages: Messages) {
    use futures_util::StreamExt as _;
    while let Some(message) = messages.next().await {
        if let Err(error) = message {
            log::debug!("a connection to PostgreSQL ended: {error}");
            return;
        }
    }
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        Box::pin(async move {
            let (client, messages) = self.open().await?;
            let driver = spawn("store-connection", drive(messages));
            let limit = self.statement_timeout.as_millis().to_string();
            client.query_typed(SET_TIMEOUT, &[(&limit, Type::TEXT)]).await?;
            Ok((client, driver))
        })
    }
}

/// The pool and how to use it.
#[derive(Clone)]
pub(super) struct Database {
    pool: Pool,
    connector: Connector,
    handle: Handle,
    timeout: Duration,
}

impl Database {
    /// A pool that connects when it is used.
    pub(super) fn new(
        connector: Connector,
        pool_size: usize,
        timeout: Duration,
        handle: Handle,
    ) -> Result<Self, StoreError> {
        let settings = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(Config::new(), connector.clone(), settings);
        let pool = Pool::builder(manager)
            .max_size(pool_size.max(1))
            .build()
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            pool,
            connector,
            handle,
            timeout,
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Does `work` on a connection of the pool within the store's time-out.
    pub(super) async fn run<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut ClientWrapper) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        self.run_within(self.timeout, work).await
    }

    /// Does `work` within `limit`.
    pub(super) async fn run_within<T, W>(&self, limit: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut ClientWrapper) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let (pool, connector) = (self.pool.clone(), self.connector.clone());
        let task = self.handle.spawn(async move {
            let mut held: Option<Object> = None;
            let exchange = async {
                let client = held.insert(pool.get().await?);
                work(client).await
            };
            let outcome = tokio::time::timeout(limit, exchange).await;
            match outcome {
                Ok(result) => result.map_err(|failure| connector.named(failure)),
                Err(_) => {
                    drop(held.map(Object::take));
                    Err(late(limit))
                }
            }
        });
        // The store's runtime has its own time-out; this one is for a runtime that is stuck.
        match tokio::time::timeout(limit + Duration::from_secs(1), task).await {
            Ok(joined) => joined.unwrap_or_else(|error| {
                Err(StoreError::Unavailable(format!(
                    "a store operation failed: {error}"
                )))
            }),
            Err(_) => Err(late(limit)),
        }
    }

    /// Ends all connections; later operations answer errors.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}
