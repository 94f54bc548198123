//! Payloads and gaps, and both ways of hearing on a real server.

use parking_lot::Mutex;

use super::private_server::PrivateServer;
use super::*;
use crate::domain::{ProjectId, TokenId};

const COUNTER_TABLE: &str = include_str!("../../migrations/postgres/0003_create_grant_folds_and_changes.sql");

#[derive(Default)]
struct Ear(Mutex<Vec<Changed>>);

impl ChangeListener for Ear {
    fn changed(&self, change: Changed) {
        self.0.lock().push(change);
    }
}

impl Ear {
    fn heard(&self, change: Changed) -> usize {
        self.0.lock().iter().filter(|heard| **heard == change).count()
    }

    async fn wait_for(&self, change: Changed, times: usize) {
        let waiting = async {
            while self.heard(change) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap_or_else(|_| panic!("{change:?} was not heard {times} times: {:?}", self.0.lock()));
    }
}

struct Bench {
    server: &'static PrivateServer,
    database: String,
    ear: Arc<Ear>,
}

impl Bench {
    /// An instance that listens; `is_deaf`: through something that swallows notifications.
    async fn start(is_deaf: bool) -> Self {
        let server = PrivateServer::shared();
        let database = server.database();
        server.execute(&database, &[COUNTER_TABLE]);
        let config: Config = server.url(&database).parse().unwrap();
        let connect: Connect = Arc::new(move || {
            let config = config.clone();
            Box::pin(async move {
                let (client, mut connection) = config.connect(NoTls).await.map_err(|e| e.to_string())?;
                let messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
                let messages = messages.filter(move |message| {
                    let is_swallowed = is_deaf && matches!(message, Ok(AsyncMessage::Notification(_)));
                    std::future::ready(!is_swallowed)
                });
                Ok((client, messages.boxed()))
            })
        });
        let ear = Arc::new(Ear::default());
        let changes = PostgresChanges {
            connect,
            listener: Arc::clone(&ear) as Arc<dyn ChangeListener>,
            timeout: Duration::from_secs(10),
        };
        // Ends with the test's runtime.
        drop(spawn("fleet", changes.run()));
        ear.wait_for(Changed::Everything, 1).await;
        Self {
            server,
            database,
            ear,
        }
    }

    /// What another instance does.
    fn announce(&self, token: TokenId) {
        let statement = format!(
            "WITH moved AS (UPDATE change_counter SET value = value + 1 RETURNING value) \
             SELECT pg_notify('llm_proxy_changes', 'token {token} ' || value) FROM moved"
        );
        self.server.execute(&self.database, &[&statement]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_notification_is_heard_as_what_it_is() {
    let bench = Bench::start(false).await;
    for _ in 0..3 {
        let token = TokenId::random();
        bench.announce(token);
        bench.ear.wait_for(Changed::Token(token), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn changes_whose_notifications_are_swallowed_are_seen_in_the_counter() {
    let bench = Bench::start(true).await;
    for turn in 2..5 {
        bench.announce(TokenId::random());
        bench.ear.wait_for(Changed::Everything, turn).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_cut_connection_everything_counts_as_changed_and_listening_goes_on() {
    let bench = Bench::start(false).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    bench.server.execute(&bench.database, &[cut]);
    bench.ear.wait_for(Changed::Everything, 2).await;
    let token = TokenId::random();
    bench.announce(token);
    bench.ear.wait_for(Changed::Token(token), 1).await;
}

#[test]
fn payloads_are_read_and_unknown_ones_mean_everything() {
    let (token, project) = (TokenId::random(), ProjectId::random());
    let table = [
        (format!("token {token} 7"), Changed::Token(token), Some(7)),
        (format!("project {project} 8"), Changed::Project(project), Some(8)),
        (format!("model {token} 9"), Changed::Everything, Some(9)),
        ("token nonsense 9".to_owned(), Changed::Everything, Some(9)),
        (format!("token {token}"), Changed::Token(token), None),
        (String::new(), Changed::Everything, None),
    ];
    for (payload, change, counter) in table {
        let heard = parse(&payload);
        assert_eq!((heard.change, heard.counter), (change, counter), "`{payload}`");
    }
}

#[test]
fn a_change_without_notification_is_noticed_at_the_second_look_and_later_at_the_first() {
    let mut place = Place {
        hears: true,
        counter: 5,
        is_behind: false,
    };
    assert!(!place.missed(5));
    assert!(!place.missed(6), "its notification may be on its way");
    assert!(place.missed(6));
    place.counter = 6;
    assert!(!place.missed(6));
    assert!(place.missed(7), "notifications do not arrive here");
    place.counter = 7;
    assert!(place.missed(3), "the database was restored");
}
