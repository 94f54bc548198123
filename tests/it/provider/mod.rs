//! A scriptable fake of both providers' APIs, on a port of its own, that remembers all it saw.

mod answers;
mod connection;
pub mod realtime;
mod refusing;
mod reply;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;

pub use answers::{chat_chunks, message_events};
pub use refusing::{Deaf, Refusing};
pub use reply::{Gate, Reply};

use crate::http::Headers;

/// A request as the provider saw it.
#[derive(Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The target with its query, byte for byte.
    pub target: String,
    /// The fields in order.
    pub headers: Headers,
    /// The head, byte for byte.
    pub raw_head: Arc<Vec<u8>>,
    /// The body without transfer coding.
    pub body: Arc<Vec<u8>>,
    /// Whether the body came whole.
    pub body_whole: bool,
    /// The number of the connection.
    pub connection: u64,
    /// When the client was seen to leave before the answer was out.
    pub left_at: Option<Instant>,
    /// Whether the script ran to its end.
    pub answered: bool,
}

impl Seen {
    /// The path without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The model asked for.
    pub fn model(&self) -> String {
        self.json()["model"].as_str().unwrap_or("").to_owned()
    }
}

type Script = Arc<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    queue: VecDeque<Reply>,
    rules: Vec<Script>,
    connections: u64,
    in_flight: usize,
    most_in_flight: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().expect("the provider's state");
        let result = change(&mut state);
        self.changed.notify_all();
        result
    }

    fn reply_to(&self, seen: &Seen) -> Reply {
        let rules = {
            let mut state = self.state.lock().expect("the provider's state");
            if let Some(reply) = state.queue.pop_front() {
                return reply;
            }
            state.rules.clone()
        };
        rules
            .iter()
            .rev()
            .find_map(|rule| rule(seen))
            .unwrap_or_else(|| answers::usual(seen))
    }
}

/// Lets the program count tokens once, so that what that needs is there before its memory is looked at.
pub fn load_vocabulary(provider: &Provider, user: &crate::edge::TokenUser) {
    provider.next(Reply::json(200, &serde_json::json!({"choices": []})));
    user.chat("gpt-a").expect(200);
}

/// The fake. Stops when its last holder drops it; an edge holds the one it was planned with.
#[derive(Clone)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    _running: Arc<Running>,
}

struct Running(Option<tokio::runtime::Runtime>);

impl Provider {
    /// Starts on a free port of the loopback interface.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("provider")
            .enable_all()
            .build()
            .expect("a runtime for the provider");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port for the provider");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let address = listener.local_addr().expect("the provider's address");
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener for the runtime");
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                let number = shared.change(|state| {
                    state.connections += 1;
                    state.connections
                });
                tokio::task::spawn(connection::serve(stream, number, shared));
            }
        });
        Self {
            address,
            shared,
            _running: Arc::new(Running(Some(runtime))),
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next request, whatever it is; several wait in line.
    pub fn next(&self, reply: Reply) {
        self.shared.change(|state| state.queue.push_back(reply));
    }

    /// Answers every request of this path.
    pub fn on_path(&self, path: &str, reply: Reply) {
        let path = path.to_owned();
        self.on(move |seen| (seen.path() == path).then(|| reply.clone()));
    }

    /// Answers every request for this model.
    pub fn on_model(&self, model: &str, reply: Reply) {
        let model = model.to_owned();
        self.on(move |seen| (seen.model() == model).then(|| reply.clone()));
    }

    /// Answers every request.
    pub fn always(&self, reply: Reply) {
        self.on(move |_| Some(reply.clone()));
    }

    /// Adds a rule; the youngest is asked first, `None` passes the request on.
    pub fn on(&self, rule: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) {
        self.shared.change(|state| state.rules.push(Arc::new(rule)));
    }

    /// Forgets every rule and what is in line.
    pub fn forget_scripts(&self) {
        self.shared.change(|state| {
            state.rules.clear();
            state.queue.clear();
        });
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared
            .state
            .lock()
            .expect("the provider's state")
            .seen
            .clone()
    }

    /// The requests behind the first so many.
    pub fn seen_since(&self, index: usize) -> Vec<Seen> {
        let state = self.shared.state.lock().expect("the provider's state");
        state.seen[index..].to_vec()
    }

    /// The number of requests so far.
    pub fn count(&self) -> usize {
        self.shared.state.lock().expect("the provider's state").seen.len()
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request at the provider")
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared
            .state
            .lock()
            .expect("the provider's state")
            .connections
    }

    /// Requests that are being answered now.
    pub fn in_flight(&self) -> usize {
        self.shared.state.lock().expect("the provider's state").in_flight
    }

    /// The most that were ever answered at once.
    pub fn most_in_flight(&self) -> usize {
        self.shared
            .state
            .lock()
            .expect("the provider's state")
            .most_in_flight
    }

    /// Waits until so many requests have come in all.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        let arrived = self.wait(Duration::from_secs(15), |state| state.seen.len() >= count);
        assert!(arrived, "the provider saw {} requests, not {count}", self.count());
    }

    /// Waits until the client of the request with this index has left; answers when.
    #[track_caller]
    pub fn wait_until_left(&self, index: usize, within: Duration) -> Instant {
        let left = self.wait(within, |state| {
            state.seen.get(index).is_some_and(|seen| seen.left_at.is_some())
        });
        assert!(left, "nobody left request {index} within {within:?}");
        self.seen()[index].left_at.expect("the time of leaving")
    }

    /// Waits until nothing is being answered.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        let idle = self.wait(Duration::from_secs(15), |state| state.in_flight == 0);
        assert!(idle, "{} requests are still being answered", self.in_flight());
    }

    fn wait(&self, within: Duration, condition: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.state.lock().expect("the provider's state");
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, within, |state| !condition(state))
            .expect("the provider's state");
        condition(&state)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
