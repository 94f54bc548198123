//! PostgreSQL passes the suite, and names what is wrong with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::private_server::PrivateServer;
use super::{PostgresOptions, open, schema};
use crate::domain::{Secret, SystemClock};
use crate::store::contract::{ALL, all_cases, full_project, with_token};
use crate::store::{GrantOutcome, Store, StoreError};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The runtime that drives connections, apart from the one that asks.
fn store_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn asking_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn options(url: &str, runtime: &Runtime, timeout: Duration) -> PostgresOptions {
    PostgresOptions {
        url: Secret::new(url),
        pool_size: 4,
        timeout,
        runtime: runtime.handle().clone(),
        fsync: crate::store::Fsync::default(),
        clock: SystemClock::shared(),
    }
}

async fn fresh_store(runtime: &Runtime) -> (Store, PostgresOptions) {
    let server = PrivateServer::shared();
    let options = options(&server.url(&server.database()), runtime, TIMEOUT);
    let store = open(&options).unwrap();
    store.schema.up().await.unwrap();
    (store, options)
}

#[test]
fn every_case_of_the_contract_holds() {
    let runtime = store_runtime();
    asking_runtime().block_on(async {
        for (name, case) in all_cases() {
            println!("{name}");
            let (store, _) = fresh_store(&runtime).await;
            case(&store).await;
            store.close().await;
        }
    });
}

#[test]
fn instances_that_start_together_all_find_the_schema_in_place() {
    let runtime = store_runtime();
    let server = PrivateServer::shared();
    let options = options(&server.url(&server.database()), &runtime, TIMEOUT);
    asking_runtime().block_on(async {
        let before = schema(&options).unwrap().status().await.unwrap();
        assert!(before.iter().all(|migration| migration.applied_at.is_none()));
        let starts = (0..4).map(|_| {
            let schema = schema(&options).unwrap();
            async move { schema.up().await.unwrap().len() }
        });
        let mut applied = futures_util::future::join_all(starts).await;
        applied.sort_unstable();
        assert_eq!(applied, [0, 0, 0, before.len()]);
        let after = schema(&options).unwrap().status().await.unwrap();
        assert!(after.iter().all(|migration| migration.applied_at.is_some()));
    });
}

#[test]
fn a_newer_and_a_foreign_schema_are_named() {
    let runtime = store_runtime();
    let server = PrivateServer::shared();
    asking_runtime().block_on(async {
        let newer = server.database();
        let options = options(&server.url(&newer), &runtime, TIMEOUT);
        let schema = schema(&options).unwrap();
        schema.up().await.unwrap();
        server.execute(
            &newer,
            &["INSERT INTO schema_migrations VALUES (99, 'future', '', 0)"],
        );
        let error = schema.up().await.unwrap_err();
        assert!(
            matches!(error, StoreError::NewerSchema { found: 99, .. }),
            "{error}"
        );

        let foreign = server.database();
        server.execute(&foreign, &["CREATE TABLE tokens (id INT)"]);
        let schema = super::schema(&self::options(&server.url(&foreign), &runtime, TIMEOUT)).unwrap();
        let error = schema.up().await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    });
}

#[test]
fn a_server_that_is_away_or_mute_is_unavailable_in_time_and_nothing_shows_the_password() {
    let runtime = store_runtime();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [
        mute.local_addr().unwrap().port(),
        closed.local_addr().unwrap().port(),
    ];
    drop(closed);
    asking_runtime().block_on(async {
        for port in ports {
            let url = format!("postgres://edge:very-secret@127.0.0.1:{port}/edge?sslmode=allow");
            let store = open(&options(&url, &runtime, Duration::from_millis(300))).unwrap();
            let token = crate::domain::TokenId::random();
            let errors = [
                store.health.ping().await.unwrap_err(),
                store.projects.list(ALL).await.unwrap_err(),
                store.grants.take(token, 5).await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
                assert!(!format!("{error} {error:?}").contains("very-secret"));
            }
        }
    });
}

#[test]
fn a_server_without_writes_is_read_only() {
    let runtime = store_runtime();
    asking_runtime().block_on(async {
        let (store, options) = fresh_store(&runtime).await;
        let database = options.url.expose().rsplit('/').next().unwrap().to_owned();
        let statement = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
        PrivateServer::shared().execute("postgres", &[&statement]);
        store.close().await;
        let store = open(&options).unwrap();
        let write = store.projects.create(&full_project("edge")).await;
        assert!(matches!(write, Err(StoreError::ReadOnly(_))), "{write:?}");
        let ping = store.health.ping().await;
        assert!(matches!(ping, Err(StoreError::ReadOnly(_))), "{ping:?}");
    });
}

#[test]
fn two_instances_share_a_cap_exactly() {
    let runtime = store_runtime();
    asking_runtime().block_on(async {
        let (first, options) = fresh_store(&runtime).await;
        let second = open(&options).unwrap();
        let (_, token) = with_token(&first, "sk-one").await;
        let takes = (0..60).map(|turn| {
            let grants = Arc::clone(if turn % 2 == 0 {
                &first.grants
            } else {
                &second.grants
            });
            async move { grants.take(token.id, 20).await.unwrap() }
        });
        let outcomes = futures_util::future::join_all(takes).await;
        let granted = outcomes
            .iter()
            .filter(|outcome| **outcome == GrantOutcome::Granted)
            .count();
        assert_eq!(granted, 20);
        assert_eq!(
            first.tokens.get(token.id).await.unwrap().unwrap().request_count,
            20
        );
        second.close().await;
        first.close().await;
    });
}

#[test]
fn connections_cut_by_the_server_are_replaced() {
    let runtime = store_runtime();
    asking_runtime().block_on(async {
        let (store, options) = fresh_store(&runtime).await;
        let database = options.url.expose().rsplit('/').next().unwrap().to_owned();
        let cut =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
        PrivateServer::shared().execute("postgres", &[&cut]);
        // At most one operation meets the cut connection.
        let first = store.health.ping().await;
        assert!(
            matches!(first, Ok(()) | Err(StoreError::Unavailable(_))),
            "{first:?}"
        );
        store.health.ping().await.unwrap();
        store.close().await;
    });
}

/// Host, parameters, and whether the connection is then encrypted; `None`: there is none.
fn sslmode_table(server: &PrivateServer) -> Vec<(String, String, Option<bool>)> {
    let file = |name: &str| server.folder.join(name).display().to_string();
    let (ca, other, itself) = (file("ca.crt"), file("other.crt"), file("server.crt"));
    let unix = server.folder.display().to_string().replace('/', "%2F");
    let rows = [
        ("localhost", "sslmode=disable".to_owned(), Some(false)),
        ("localhost", "sslmode=allow".to_owned(), Some(false)),
        ("localhost", "sslmode=prefer".to_owned(), Some(true)),
        ("localhost", String::new(), Some(true)),
        ("localhost", "sslmode=require".to_owned(), Some(true)),
        ("localhost", format!("sslmode=require&sslrootcert={other}"), None),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={ca}"),
            Some(true),
        ),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={itself}"),
            Some(true),
        ),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            None,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={ca}"),
            Some(true),
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            Some(true),
        ),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), None),
        (unix.as_str(), "sslmode=verify-full".to_owned(), Some(false)),
    ];
    rows.map(|(host, query, encrypted)| (host.to_owned(), query, encrypted))
        .into()
}

#[test]
fn sslmodes_check_what_libpq_checks() {
    const IS_ENCRYPTED: &str =
        "SELECT COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), FALSE)";
    let server = PrivateServer::shared();
    let database = server.database();
    store_runtime().block_on(async {
        for (host, query, encrypted) in sslmode_table(server) {
            let url = format!("postgres://postgres@{host}:{}/{database}?{query}", server.port);
            let connector = super::Connector::new(&Secret::new(url), TIMEOUT).unwrap();
            let opened = connector.dedicated().await;
            let Some(expected) = encrypted else {
                assert!(opened.is_err(), "{host} {query} must be refused");
                continue;
            };
            let (client, messages) = opened.unwrap_or_else(|error| panic!("{host} {query}: {error}"));
            let driver = crate::domain::spawn::spawn("test", super::database::drive(messages));
            let row = client.query_typed_one(IS_ENCRYPTED, &[]).await.unwrap();
            assert_eq!(row.get::<_, bool>(0), expected, "{host} {query}");
            driver.abort();
        }
    });
}
