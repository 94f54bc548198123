//! The PostgreSQL back end, for one instance or a fleet.

mod audit;
mod changes;
mod database;
mod failure;
mod grants;
mod health;
mod ledger;
mod projects;
mod rows;
mod schema;
mod sealed_keys;
mod tls;
mod tokens;
mod url;
mod usage;

#[cfg(test)]
mod private_server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;

use self::database::Database;
use self::grants::PostgresGrants;
use super::migrate::Schema;
use super::{Fsync, Grants, SealedKeys, Store, StoreClose, StoreError};
use crate::domain::{Clock, Secret};

pub use self::database::{Connector, Messages};

/// What the back end needs to know.
#[derive(Clone)]
pub struct PostgresOptions {
    /// A libpq URL.
    pub url: Secret,
    /// Connections at most.
    pub pool_size: usize,
    /// How long a statement, a connection and a caller may take.
    pub timeout: Duration,
    /// The runtime that drives all connections; not one of the data plane.
    pub runtime: Handle,
    /// Whether a commit of the ledger waits for the database's disk.
    pub fsync: Fsync,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Makes the ports; connects to nothing. Errors are faults of the URL or of files it names. Before first use
/// [`Schema::up`] of [`schema`] has to have succeeded once; it may be tried again as often as the server is away.
pub fn open(options: &PostgresOptions) -> Result<Store, StoreError> {
    let database = connect(options)?;
    let grants = Arc::new(PostgresGrants::new(database.clone()));
    Ok(Store {
        driver: "postgres",
        tokens: Arc::new(tokens::PostgresTokens {
            database: database.clone(),
        }),
        projects: Arc::new(projects::PostgresProjects {
            database: database.clone(),
        }),
        audit: Arc::new(audit::PostgresAudit {
            database: database.clone(),
        }),
        usage: Arc::new(usage::PostgresUsage {
            database: database.clone(),
        }),
        ledger: Arc::new(ledger::PostgresLedger {
            database: database.clone(),
            fsync: options.fsync.clone(),
        }),
        grants: Arc::clone(&grants) as Arc<dyn Grants>,
        health: Arc::new(health::PostgresHealth {
            database: database.clone(),
        }),
        fsync: options.fsync.clone(),
        schema: Arc::new(schema::PostgresSchema {
            database: database.clone(),
            clock: Arc::clone(&options.clock),
        }),
        closing: Arc::new(Closing { database, grants }),
    })
}

/// The schema alone, for `migrate up` and `migrate status`.
pub fn schema(options: &PostgresOptions) -> Result<Arc<dyn Schema>, StoreError> {
    Ok(Arc::new(schema::PostgresSchema {
        database: connect(options)?,
        clock: Arc::clone(&options.clock),
    }))
}

/// The provider keys at rest, while a server may run.
pub fn sealed_keys(options: &PostgresOptions) -> Result<Arc<dyn SealedKeys>, StoreError> {
    Ok(Arc::new(sealed_keys::PostgresSealedKeys {
        database: connect(options)?,
    }))
}

fn connect(options: &PostgresOptions) -> Result<Database, StoreError> {
    let connector = Connector::new(&options.url, options.timeout)?;
    Database::new(
        connector,
        options.pool_size,
        options.timeout,
        options.runtime.clone(),
    )
}

struct Closing {
    database: Database,
    grants: Arc<PostgresGrants>,
}

#[async_trait]
impl StoreClose for Closing {
    async fn close(&self) {
        if let Err(error) = self.grants.flush().await {
            log::warn!("grants that were not used could not be returned: {error}");
        }
        self.database.close();
    }
}
