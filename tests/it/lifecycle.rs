//! Start, stop, signals, locks, taken ports.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::edge::{Plan, TestEdge};
use crate::http::{Connection, Request};
use crate::provider::{Gate, Provider, Reply, chat_chunks};
use crate::wait::wait_until;

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn taken_port_ends_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for section in ["server", "management"] {
        let output = TestEdge::plan(&Provider::start())
            .with(json!({section: {"listen": address}}))
            .fails();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("address already in use") && said(&output).contains(&address),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn missing_management_token_ends_the_start_with_the_known_text() {
    let output = TestEdge::plan(&Provider::start())
        .with(json!({"management": {"token": null}}))
        .fails();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("MANAGEMENT_TOKEN environment variable is required"),
        "{}",
        said(&output)
    );
}

#[test]
fn bad_configuration_ends_the_start_with_every_fault_and_its_place() {
    let text = "server:\n  listen: 127.0.0.1:0\n  request_timout: 5s\nmanagement:\n  token: management-bearer-of-the-bench\nrouter:\n  retries: many\n";
    let output = Plan::new(json!({})).raw(text).fails();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.contains("llm-proxy.yaml:3:3")
            && said.contains("request_timout")
            && said.contains("request_timeout"),
        "{said}"
    );
    assert!(
        said.contains("llm-proxy.yaml:7:") && said.contains("router.retries"),
        "{said}"
    );
}

#[test]
fn start_on_existing_data_is_quick() {
    let mut edge = TestEdge::start(&Provider::start());
    edge.stop();
    // The best of several: other tests run beside this one, and an unoptimised build takes its time.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 300 });
    let best = (0..5)
        .map(|_| {
            edge.start_again();
            edge.started_in
        })
        .min()
        .expect("some starts");
    assert!(best < limit, "{best:?}");
}

#[test]
fn terminated_program_lets_a_hundred_streams_finish_and_exits_0() {
    let provider = Provider::start();
    let gate = Gate::new();
    provider.always(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    let mut edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| user.chat_stream("gpt-a").finish()))
            .collect();
        provider.wait_for_requests(100);
        edge.signal(Signal::TERM);
        let refused = wait_until(Duration::from_secs(6), || {
            Connection::try_open(edge.proxy).is_err()
        });
        assert!(refused, "the listener never closes");
        gate.open();
        assert!(
            streams
                .into_iter()
                .all(|stream| stream.join().expect("a stream").is_done())
        );
    });
    assert_eq!(edge.wait_for_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn draining_program_is_unready_and_serves_for_its_delay() {
    let provider = Provider::start();
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"server": {"shutdown_delay": "1s"}}))
        .start();
    let user = edge.token(json!({}));
    edge.signal(Signal::TERM);
    assert!(wait_until(Duration::from_millis(800), || edge
        .anonymous()
        .get("/ready")
        .status
        == 503));
    user.chat("gpt-a").expect(200);
    assert_eq!(edge.wait_for_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn idle_program_stops_at_once() {
    let mut edge = TestEdge::start(&Provider::start());
    let from = Instant::now();
    edge.stop();
    assert!(
        from.elapsed() < Duration::from_millis(1500),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn drain_ends_with_its_timeout_and_cuts_the_rest() {
    let provider = Provider::start();
    provider.always(Reply::events(&chat_chunks("m")).hang_after(2));
    let mut edge = TestEdge::plan(&provider)
        .with(json!({"server": {"drain_timeout": "500ms"}}))
        .start();
    let user = edge.token(json!({}));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait_for_exit(Duration::from_secs(8)).code(), Some(0));
    assert!(!stream.finish().end.is_whole());
}

#[test]
fn second_signal_ends_the_program_at_once() {
    let provider = Provider::start();
    provider.always(Reply::events(&chat_chunks("m")).hang_after(2));
    let mut edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    edge.signal(Signal::TERM);
    assert!(wait_until(Duration::from_secs(3), || edge
        .logs()
        .to_lowercase()
        .contains("drain")));
    assert!(edge.is_running());
    edge.signal(Signal::TERM);
    edge.wait_for_exit(Duration::from_secs(2));
}

#[test]
fn request_on_an_open_connection_of_a_closed_listener_is_told_that_it_drains() {
    let provider = Provider::start();
    let gate = Gate::new();
    provider.next(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    let mut edge = TestEdge::start(&provider);
    let user = edge.token(json!({}));
    let mut stream = user.chat_stream("gpt-a");
    assert!(stream.next_event().is_some());
    let mut connection = Connection::open(edge.proxy);
    // Half a head keeps the connection from being idle.
    let request = user.sign(Request::new("GET", "/v1/models"));
    let head = request.head(edge.proxy);
    connection.send_raw(&head[..10]).expect("half a head");
    edge.signal(Signal::TERM);
    assert!(wait_until(Duration::from_secs(6), || Connection::try_open(
        edge.proxy
    )
    .is_err()));
    connection.send_raw(&head[10..]).expect("the other half");
    let answer = connection
        .read_answer("GET", Instant::now())
        .expect("an answer while draining");
    let answer = answer.refused(503, "draining");
    assert!(answer.header("retry-after").is_some());
    gate.open();
    assert!(stream.finish().is_done());
    assert_eq!(edge.wait_for_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn second_program_on_the_same_state_is_refused_and_names_the_first() {
    let edge = TestEdge::start(&Provider::start());
    let pid = edge.pid().as_raw_nonzero().to_string();
    let output = edge.fails_again();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.lines()
            .any(|line| line.contains(&pid) && line.contains("lock")),
        "names {pid}: {said}"
    );
}

#[test]
fn killed_program_leaves_nothing_that_keeps_the_next_from_starting() {
    let mut edge = TestEdge::start(&Provider::start());
    let user = edge.token(json!({}));
    user.chat("gpt-a").expect(200);
    edge.kill();
    edge.start_again();
    user.at(&edge.anonymous()).chat("gpt-a").expect(200);
}

#[test]
fn interrupt_works_like_terminate() {
    let mut edge = TestEdge::start(&Provider::start());
    edge.signal(Signal::INT);
    assert_eq!(edge.wait_for_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn configuration_file_is_found_by_environment_and_place() {
    let edge = TestEdge::plan(&Provider::start()).prepare();
    let config = edge.config_path();
    let shown = |arguments: &[&str]| edge.run(arguments);
    assert!(
        shown(&["config", "check", "-c", config.to_str().expect("a path")])
            .status
            .success()
    );
    std::fs::create_dir_all(edge.folder().join("conf")).expect("a folder");
    std::fs::copy(&config, edge.folder().join("conf/llm-proxy.yaml")).expect("a copy");
    let output = shown(&["config", "show"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("127.0.0.1:0"),
        "{output:?}"
    );
}
