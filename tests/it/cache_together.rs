//! Identical requests at the same time: one call, whoever leaves, however slow a client reads.

use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Answer, Connection, End, Request, chat, chat_streamed};
use crate::provider::{Gate, Provider, Reply, chat_chunks, message_events};
use crate::wait::wait_until;

const FILE: &str = "/v1/files/file-fake";
const CHAT: &str = "/v1/chat/completions";
const SOON: Duration = Duration::from_secs(10);

fn start(over: Value) -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(over).start();
    let user = edge.token_of(
        &edge.project(json!({"api_key": "sk-own-key-of-the-project-4242"})),
        json!({}),
    );
    (provider, edge, user)
}

fn kept() -> Reply {
    Reply::json(200, &json!({"id": "file-fake"})).header("Cache-Control", "public, max-age=60")
}

fn opted_in(body: &Value) -> Request {
    Request::new("POST", CHAT)
        .header("Cache-Control", "public, max-age=60")
        .json(body)
}

fn verdict(answer: &Answer) -> &str {
    answer.header("x-proxy-cache").unwrap_or("")
}

fn cache_number(edge: &TestEdge, name: &str) -> u64 {
    edge.admin().get("/manage/cache").expect(200).json()[name]
        .as_u64()
        .unwrap_or(0)
}

#[track_caller]
fn wait_for_followers(edge: &TestEdge, count: u64) {
    let joined = wait_until(SOON, || cache_number(edge, "followers") == count);
    assert!(joined, "{} follow, not {count}", cache_number(edge, "followers"));
}

#[test]
fn identical_misses_make_one_call_and_the_leader_alone_is_charged() {
    let (provider, edge, _) = start(json!({}));
    let project = edge.project(json!({"api_key": "sk-own-key-of-the-project"}));
    let leader = edge.token_of(&project, json!({"max_requests": 5}));
    let follower = edge.token_of(&project, json!({"max_requests": 1}));
    let gate = Gate::new();
    provider.on_path(FILE, kept().head_behind(&gate));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| leader.get(FILE).expect(200));
        provider.wait_for_requests(1);
        let others: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| follower.get(FILE).expect(200)))
            .collect();
        wait_for_followers(&edge, 20);
        gate.open();
        assert_eq!(verdict(&first.join().expect("the leader")), "stored");
        for other in others {
            let other = other.join().expect("a follower");
            assert_eq!(
                (verdict(&other), other.json()["id"].as_str()),
                ("hit", Some("file-fake"))
            );
            assert!(
                other
                    .header("cache-status")
                    .is_some_and(|s| s.starts_with("llm-proxy; hit"))
            );
        }
    });
    assert_eq!(provider.count(), 1);
    assert_eq!(cache_number(&edge, "coalesced"), 20);
    let counted = wait_until(SOON, || {
        let read = |user: &TokenUser| edge.admin().read_token(&user.id);
        let (leader, follower) = (read(&leader), read(&follower));
        leader["request_count"] == 1 && follower["request_count"] == 0 && follower["cache_hit_count"] == 20
    });
    assert!(counted);
    wait_for_followers(&edge, 0);
}

#[test]
fn followers_of_a_stream_read_it_as_it_comes() {
    let (provider, edge, user) = start(json!({}));
    for (path, body, events) in [
        (CHAT, chat_streamed("gpt-a"), chat_chunks("m")),
        (
            "/v1/messages",
            json!({"model": "claude-a", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]}),
            message_events("m"),
        ),
    ] {
        let gate = Gate::new();
        let before = provider.count();
        provider.next(Reply::events(&events).piece_behind(2, &gate));
        let ask = || {
            let request = Request::new("POST", path)
                .header("Cache-Control", "public, max-age=60")
                .json(&body);
            Connection::open(user.address).stream(&user.sign(request))
        };
        let mut streams: Vec<_> = std::iter::repeat_with(ask).take(1).collect();
        assert!(streams[0].next_event().is_some());
        streams.extend(std::iter::repeat_with(ask).take(4));
        for stream in &mut streams[1..] {
            assert_eq!(stream.headers.get("x-proxy-cache"), Some("hit"));
            assert!(stream.next_event().is_some(), "before the whole is there");
        }
        gate.open();
        let rests: Vec<_> = streams
            .into_iter()
            .map(crate::http::EventStream::finish)
            .collect();
        for rest in &rests {
            assert!(rest.end.is_whole(), "{path}");
            assert_eq!(rest.events.len(), events.len() - 1, "{path}");
        }
        assert_eq!(provider.count(), before + 1, "{path}");
    }
    wait_for_followers(&edge, 0);
}

#[test]
fn followers_of_a_cut_stream_see_that_it_is_cut() {
    let (provider, edge, user) = start(json!({"router": {"retries": 0}}));
    let gate = Gate::new();
    provider.next(
        Reply::events(&chat_chunks("m"))
            .piece_behind(2, &gate)
            .cut_after(3),
    );
    let ask = || Connection::open(user.address).stream(&user.sign(opted_in(&chat_streamed("gpt-a"))));
    let mut leader = ask();
    leader.next_event();
    let follower = ask();
    wait_for_followers(&edge, 1);
    gate.open();
    for rest in [leader.finish(), follower.finish()] {
        assert_eq!(rest.end, End::Cut);
        assert!(!rest.is_done());
        let last = rest.events.last().expect("an event");
        assert!(last.data.contains("upstream_protocol_error"), "{last:?}");
    }
    assert_eq!(cache_number(&edge, "entries"), 0);
}

#[test]
fn followers_of_a_stream_with_an_error_event_get_it_and_its_clean_end_and_it_is_not_kept() {
    let (provider, edge, user) = start(json!({"router": {"retries": 0}}));
    let gate = Gate::new();
    let error = "data: {\"error\": {\"message\": \"overloaded\", \"type\": \"server_error\"}}";
    let mut events = chat_chunks("m");
    events.truncate(2);
    events.push(error.to_owned());
    provider.next(Reply::events(&events).piece_behind(2, &gate));
    let ask = || Connection::open(user.address).stream(&user.sign(opted_in(&chat_streamed("gpt-a"))));
    let mut leader = ask();
    leader.next_event();
    let follower = ask();
    wait_for_followers(&edge, 1);
    gate.open();
    for rest in [leader.finish(), follower.finish()] {
        assert!(rest.end.is_whole());
        assert!(
            rest.events
                .last()
                .is_some_and(|last| last.data.contains("overloaded"))
        );
    }
    assert_eq!(cache_number(&edge, "entries"), 0);
}

#[test]
fn a_leader_that_leaves_takes_the_call_with_it_when_nobody_follows() {
    let (provider, edge, user) = start(json!({}));
    let gate = Gate::new();
    provider.on_path(FILE, kept().head_behind(&gate));
    let mut leader = Connection::open(user.address);
    leader.send(&user.sign(Request::new("GET", FILE)));
    provider.wait_for_requests(1);
    drop(leader);
    provider.wait_until_left(0, SOON);
    // inside the body too
    let chunks: Vec<Vec<u8>> = (0..4).map(|n| vec![b'a' + n; 100]).collect();
    let gate = Gate::new();
    provider.next(
        Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .pieces(chunks)
            .chunked()
            .piece_behind(2, &gate),
    );
    let mut leader = Connection::open(user.address);
    leader.send(&user.sign(Request::new("GET", FILE)));
    leader.read_head();
    drop(leader);
    provider.wait_until_left(1, SOON);
    assert_eq!(cache_number(&edge, "entries"), 0);
}

#[test]
fn a_leader_that_leaves_lets_the_call_go_on_for_who_follows() {
    let (provider, edge, user) = start(json!({}));
    for inside_the_body in [false, true] {
        provider.forget_scripts();
        edge.admin()
            .post("/manage/cache/purge", json!({"all": true}))
            .expect(200);
        let gate = Gate::new();
        let before = provider.count();
        let reply = Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .pieces(vec![b"one ".to_vec(), b"two".to_vec()])
            .chunked();
        provider.next(if inside_the_body {
            reply.piece_behind(1, &gate)
        } else {
            reply.head_behind(&gate)
        });
        let mut leader = Connection::open(user.address);
        leader.send(&user.sign(Request::new("GET", FILE)));
        provider.wait_for_requests(before + 1);
        if inside_the_body {
            leader.read_head();
        }
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| user.get(FILE).expect(200));
            wait_for_followers(&edge, 1);
            drop(leader);
            std::thread::sleep(Duration::from_millis(300));
            assert!(provider.seen()[before].left_at.is_none());
            gate.open();
            let follower = follower.join().expect("the follower");
            assert_eq!((verdict(&follower), follower.text().as_str()), ("hit", "one two"));
        });
        assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
        assert_eq!(provider.count(), before + 1);
    }
}

#[test]
fn when_all_who_follow_have_left_too_the_call_ends() {
    let (provider, edge, user) = start(json!({}));
    let gate = Gate::new();
    provider.on_path(FILE, kept().head_behind(&gate));
    let mut clients: Vec<_> = (0..4).map(|_| Connection::open(user.address)).collect();
    for client in &mut clients {
        client.send(&user.sign(Request::new("GET", FILE)));
    }
    wait_for_followers(&edge, 3);
    clients.truncate(2);
    wait_until(SOON, || cache_number(&edge, "followers") <= 1);
    std::thread::sleep(Duration::from_millis(200));
    assert!(provider.seen()[0].left_at.is_none(), "one is still there");
    clients.clear();
    provider.wait_until_left(0, SOON);
    wait_for_followers(&edge, 0);
    assert_eq!(provider.count(), 1);
}

#[test]
fn a_request_that_asked_for_its_answer_to_be_kept_may_leave() {
    let (provider, edge, user) = start(json!({}));
    let gate = Gate::new();
    provider.next(Reply::events(&chat_chunks("m")).piece_behind(2, &gate));
    let mut leader = Connection::open(user.address).stream(&user.sign(opted_in(&chat_streamed("gpt-a"))));
    leader.next_event();
    leader.abort();
    std::thread::sleep(Duration::from_millis(300));
    gate.open();
    assert!(wait_until(SOON, || cache_number(&edge, "entries") == 1));
    let again = user.send(opted_in(&chat_streamed("gpt-a"))).expect(200);
    assert_eq!(verdict(&again), "hit");
    assert_eq!(provider.count(), 1);
    assert!(provider.seen()[0].left_at.is_none());

    // but not when the answer turns out to be nobody's
    provider.next(
        Reply::events(&chat_chunks("m"))
            .header("Cache-Control", "no-store")
            .every(Duration::from_millis(200)),
    );
    let mut leader = Connection::open(user.address).stream(&user.sign(opted_in(&chat_streamed("gpt-b"))));
    leader.next_event();
    leader.abort();
    provider.wait_until_left(1, SOON);
}

#[test]
fn a_leader_that_does_not_read_holds_nobody_up() {
    let (provider, edge, user) = start(json!({"cache": {"max_object_bytes": "32MiB", "max_size": "64MiB"}}));
    let pieces: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; 100 * 1024]).collect();
    let gate = Gate::new();
    let whole = pieces.concat();
    provider.on_path(
        FILE,
        Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .pieces(pieces)
            .chunked()
            .head_behind(&gate),
    );
    let mut leader = Connection::open(user.address);
    leader.send(&user.sign(Request::new("GET", FILE)));
    provider.wait_for_requests(1);
    std::thread::scope(|scope| {
        let followers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| user.get(FILE).expect(200)))
            .collect();
        wait_for_followers(&edge, 3);
        gate.open();
        for follower in followers {
            assert!(follower.join().expect("a follower").body == whole);
        }
    });
    assert_eq!(provider.count(), 1);
    let late = leader
        .read_answer("GET", std::time::Instant::now())
        .expect("the leader's answer");
    assert!(late.body == whole);
}

#[test]
fn what_is_too_large_to_be_kept_still_goes_to_all_who_follow() {
    let (provider, edge, user) = start(json!({"cache": {"max_object_bytes": "64KiB"}}));
    let gate = Gate::new();
    let pieces: Vec<Vec<u8>> = (0..40).map(|n| vec![n as u8; 10 * 1024]).collect();
    let whole = pieces.concat();
    provider.on_path(
        FILE,
        Reply::status(200)
            .header("Cache-Control", "public, max-age=60")
            .pieces(pieces)
            .chunked()
            .every(Duration::from_millis(5))
            .head_behind(&gate),
    );
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| user.get(FILE).expect(200)))
            .collect();
        wait_for_followers(&edge, 2);
        gate.open();
        for one in all {
            assert!(one.join().expect("an answer").body == whole);
        }
    });
    assert_eq!((provider.count(), cache_number(&edge, "entries")), (1, 0));
}

#[test]
fn answers_that_cannot_be_shared_make_each_ask_and_nobody_waits_again() {
    let (provider, edge, user) = start(json!({}));
    let gate = Gate::new();
    provider.on_path(FILE, Reply::json(200, &json!({"id": "x"})).head_behind(&gate));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| user.get(FILE).expect(200)))
            .collect();
        wait_for_followers(&edge, 4);
        gate.open();
        for one in all {
            assert_eq!(verdict(&one.join().expect("an answer")), "miss");
        }
    });
    assert_eq!(provider.count(), 5);
    let gate = Gate::new();
    provider.on_path(FILE, Reply::json(200, &json!({"id": "x"})).head_behind(&gate));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| user.get(FILE).expect(200)))
            .collect();
        provider.wait_for_requests(10);
        gate.open();
        for one in all {
            one.join().expect("an answer");
        }
    });
}

#[test]
fn one_of_those_who_follow_tries_again_when_the_leader_got_no_answer() {
    let (provider, edge, user) = start(json!({"router": {"retries": 0}}));
    let gate = Gate::new();
    provider.next(Reply::openai_error(500, "server_error", "x").head_behind(&gate));
    provider.on_path(FILE, kept().head_after(Duration::from_millis(200)));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..10).map(|_| scope.spawn(|| user.get(FILE))).collect();
        wait_for_followers(&edge, 9);
        gate.open();
        let mut verdicts: Vec<_> = all
            .into_iter()
            .map(|one| one.join().expect("an answer"))
            .map(|answer| format!("{} {}", answer.status, verdict(&answer)))
            .collect();
        verdicts.sort();
        let (hits, rest) = verdicts.split_at(8);
        assert!(hits.iter().all(|verdict| verdict == "200 hit"), "{verdicts:?}");
        assert_eq!(rest, ["200 stored", "500 miss"]);
    });
    assert_eq!(provider.count(), 2);
}

#[test]
fn a_broken_provider_is_not_asked_one_by_one() {
    let (provider, edge, user) =
        start(json!({"router": {"retries": 0}, "server": {"max_concurrent_requests": 100}}));
    let gate = Gate::new();
    provider.next(Reply::openai_error(503, "server_error", "x").head_behind(&gate));
    provider.on_path(
        FILE,
        Reply::openai_error(503, "server_error", "x").head_after(Duration::from_millis(700)),
    );
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..12).map(|_| scope.spawn(|| user.get(FILE))).collect();
        wait_for_followers(&edge, 11);
        gate.open();
        let opened = std::time::Instant::now();
        for one in all {
            assert_ne!(one.join().expect("an answer").status, 200);
        }
        assert!(
            opened.elapsed() < Duration::from_secs(5),
            "one by one it would have been 8 seconds: {:?}",
            opened.elapsed()
        );
    });
}

#[test]
fn a_leader_that_is_refused_by_its_own_limit_does_not_decide_for_the_others() {
    let (provider, edge, _) = start(json!({}));
    let project = edge.project(json!({"api_key": "sk-own-key-of-the-project"}));
    let poor = edge.token_of(&project, json!({"max_requests": 1}));
    let rich = edge.token_of(&project, json!({}));
    poor.chat("gpt-a").expect(200);
    provider.on_path(FILE, kept());
    poor.get(FILE).refused(429, "token_quota_exceeded");
    assert_eq!(verdict(&rich.get(FILE).expect(200)), "stored");
    assert_eq!(verdict(&poor.get(FILE).expect(200)), "hit", "a hit is free");
}

#[test]
fn who_follows_waits_no_longer_than_its_own_time() {
    let (provider, edge, user) = start(json!({"server": {"request_timeout": "2s"}}));
    provider.on_path(FILE, Reply::hang());
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| user.get(FILE))).collect();
        for one in all {
            one.join().expect("an answer").refused(504, "request_timeout");
        }
    });
    wait_for_followers(&edge, 0);
}

#[test]
fn without_coalesce_each_asks_for_itself() {
    let (provider, _edge, user) = start(json!({"cache": {"coalesce": false}}));
    let gate = Gate::new();
    provider.on_path(FILE, kept().head_behind(&gate));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| user.get(FILE).expect(200)))
            .collect();
        provider.wait_for_requests(4);
        gate.open();
        for one in all {
            assert_eq!(verdict(&one.join().expect("an answer")), "stored");
        }
    });
    assert_eq!(verdict(&user.get(FILE).expect(200)), "hit");
}

#[test]
fn other_questions_do_not_wait() {
    let (provider, edge, user) = start(json!({}));
    let gate = Gate::new();
    provider.on_model(
        "gpt-slow",
        Reply::json(200, &json!({"id": "slow"})).head_behind(&gate),
    );
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| user.send(opted_in(&chat("gpt-slow"))).expect(200));
        provider.wait_for_requests(1);
        assert_eq!(
            verdict(&user.send(opted_in(&chat("gpt-b"))).expect(200)),
            "stored"
        );
        assert_eq!(verdict(&user.chat("gpt-c").expect(200)), "bypass");
        let impatient = user.with("Cache-Control", "public, only-if-cached");
        impatient.post(CHAT, chat("gpt-slow")).refused(504, "not_cached");
        let stranger = edge.token(json!({}));
        scope.spawn(move || stranger.send(opted_in(&chat("gpt-slow"))).expect(200));
        provider.wait_for_requests(4);
        gate.open();
        assert_eq!(verdict(&slow.join().expect("an answer")), "stored");
    });
}
