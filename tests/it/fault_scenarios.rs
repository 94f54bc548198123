//! Providers that fail in the ways that providers do (S01 to S16 are those of the public failoverbench): who answers
//! instead, who must not be asked, and what the client is told.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::http::{Answer, chat, chat_streamed, message};
use crate::provider::{Deaf, Provider, Refusing, Reply, Seen, chat_chunks, message_events};
use crate::wait::wait_until;

/// What the client and its providers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tongue {
    Chat,
    Messages,
}

use Tongue::{Chat, Messages};

impl Tongue {
    fn either<T>(self, chat: T, messages: T) -> T {
        if self == Chat { chat } else { messages }
    }

    fn ask(self, user: &TokenUser, streamed: bool) -> Answer {
        let mut body = self.either(chat("m"), message("m"));
        if streamed {
            body["stream"] = json!(true);
        }
        match self {
            Chat => user.post("/v1/chat/completions", body),
            Messages => user.as_anthropic().post("/v1/messages", body),
        }
    }

    fn blocks(self) -> Vec<String> {
        self.either(chat_chunks("m"), message_events("m"))
    }

    /// Blocks before the first that says something.
    fn opening(self) -> usize {
        self.either(1, 2)
    }

    fn error_object(self, kind: &str, code: &str, message: &str) -> Value {
        self.either(
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}}),
            json!({"type": "error", "error": {"type": kind, "message": message}}),
        )
    }

    fn error(self, status: u16, word: &str) -> Reply {
        Reply::json(status, &self.error_object(word, word, "the provider says no"))
    }

    fn error_event(self, word: &str) -> String {
        let object = self.error_object(word, word, "the provider says no");
        format!("{}data: {object}", self.either("", "event: error\n"))
    }

    fn too_long(self) -> Reply {
        let (kind, code) = ("invalid_request_error", "context_length_exceeded");
        let object = self.error_object(kind, code, "prompt is too long: 9 > 8 maximum");
        Reply::json(400, &object)
    }
}

/// A model `m` at some providers of one dialect, asked in this order.
struct Rig {
    tongue: Tongue,
    at: Vec<Provider>,
    edge: TestEdge,
    user: TokenUser,
}

#[rustfmt::skip]
fn rig(tongue: Tongue, count: usize, over: Value) -> Rig {
    let at: Vec<Provider> = (0..count).map(|_| Provider::start()).collect();
    let dialect = tongue.either("openai", "anthropic");
    let (mut providers, mut targets) = (json!({}), Vec::new());
    for (place, (name, provider)) in ["one", "two", "three"].iter().zip(&at).enumerate() {
        // connections are fresh for each request: a close on one that served before says nothing of the provider
        let timeouts = json!({"connect": "700ms", "response_header": "1s", "idle_connection": "1ms"});
        providers[*name] = json!({"dialect": dialect, "base_url": provider.url(), "api_key": format!("sk-of-{name}-{name}"), "timeouts": timeouts});
        targets.push(json!({"provider": name, "model": format!("model-of-{name}"), "priority": place}));
    }
    let edge = TestEdge::plan(&at[0])
        .with(json!({
            "server": {"stream_idle_timeout": "700ms"},
            "router": {"retry_base_delay": "20ms", "retry_max_delay": "100ms", "cooldown": {"failures": 1_000_000}},
            "providers": providers,
            "models": {"m": {"strategy": "priority", "targets": targets, "timeouts": {"first_token": "400ms"}}},
        }))
        .with(over)
        .start();
    let user = edge.token(json!({}));
    Rig { tongue, at, edge, user }
}

/// The provider that answered, and after how many attempts.
fn served(answer: &Answer) -> [&str; 2] {
    ["x-llm-proxy-provider", "x-llm-proxy-attempts"].map(|name| answer.header(name).unwrap_or(""))
}

impl Rig {
    fn ask(&self, streamed: bool) -> Answer {
        self.tongue.ask(&self.user, streamed)
    }

    fn counts(&self) -> Vec<usize> {
        self.at.iter().map(Provider::count).collect()
    }

    /// Asks; insists on what the client sees.
    #[track_caller]
    fn sees(&self, streamed: bool, expected: &str, note: &str) -> Answer {
        let answer = self.ask(streamed);
        let told = self.told(&answer);
        assert_eq!(told, expected, "{:?} {note}: {}", self.tongue, answer.text());
        answer
    }

    /// What the client sees, in words: status, whose answer, attempts, and how it ended.
    fn told(&self, answer: &Answer) -> String {
        let (text, tongue) = (answer.text(), self.tongue);
        let from_provider = answer.header("x-llm-proxy-origin") == Some("upstream");
        let [by, attempts] = served(answer);
        let whose = if from_provider { by } else { answer.code() };
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let in_dialect = tongue.either(body["error"]["code"] == answer.code(), body["type"] == "error");
        assert!(from_provider || in_dialect, "{tongue:?}: {text}");
        let streams = answer.header("content-type") == Some("text/event-stream");
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or("");
        let error = tongue.either("data: {\"error\":", "event: error\ndata: {\"type\":\"error\",");
        let failed = last.starts_with(error);
        let marked = text.contains(tongue.either("[DONE]", "message_stop"));
        let end = match (answer.end.is_whole(), streams) {
            (true, false) => "whole",
            (false, false) => "cut",
            (true, true) if marked && !failed => "whole",
            (true, true) if failed && !marked => "failed",
            (false, true) if failed && !marked && text.ends_with("\n\n") => "broken",
            (_, true) => "odd",
        };
        format!("{} {whose} {attempts} {end}", answer.status)
    }
}

const PLAIN: bool = false;
const STREAMED: bool = true;

/// A name, the targets, whether a stream is asked for, what the first target does so many times, what the client sees.
type Row = (&'static str, usize, bool, usize, Reply, &'static str);

/// Plays each row in both dialects.
fn play(rows: impl Fn(Tongue) -> Vec<Row>) {
    let mut wrong = Vec::new();
    for tongue in [Chat, Messages] {
        let rigs = [rig(tongue, 1, json!({})), rig(tongue, 2, json!({}))];
        for (name, targets, streamed, times, reply, expected) in rows(tongue) {
            let rig = &rigs[targets - 1];
            (0..times).for_each(|_| rig.at[0].next(reply.clone()));
            let before: usize = rig.counts().iter().sum();
            let answer = rig.ask(streamed);
            let asked = rig.counts().iter().sum::<usize>() - before;
            rig.at[0].forget_scripts();
            std::thread::sleep(Duration::from_millis(20));
            let (told, took, text) = (rig.told(&answer), answer.elapsed, answer.text());
            let counted = served(&answer)[1] == asked.to_string();
            // the longest limits together, thrice
            if told != expected || !counted || took > Duration::from_secs(6) {
                let seen = format!("`{told}`, asked {asked}, in {took:?}");
                wrong.push(format!("{tongue:?} {name}: {seen}, not `{expected}`: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[rustfmt::skip]
fn what_fails_before_its_first_words_is_answered_by_another_or_after_a_pause() {
    play(|t| {
        let limited = || t.error(429, "rate_limit_error");
        let blocks = t.blocks();
        let opening = || Reply::events(&blocks).hang_after(t.opening());
        let beats = |beat: &str| Reply::events(&vec![beat; 40]).every(Duration::from_millis(100));
        let in_time = |reply: Reply| reply.head_after(Duration::from_millis(600));
        vec![
            ("S01 429 with a time", 1, STREAMED, 1, limited().header("retry-after-ms", "300"), "200 one 2 whole"),
            ("S02 lasting 429", 1, PLAIN, 3, limited(), "429 one 3 whole"),
            ("S02 lasting 429, two", 2, PLAIN, 3, limited(), "200 two 2 whole"),
            ("S03 one 500", 1, PLAIN, 1, t.error(500, "api_error"), "200 one 2 whole"),
            ("S03 one 500, two", 2, STREAMED, 1, t.error(500, "api_error"), "200 two 2 whole"),
            ("S04 lasting 503", 1, PLAIN, 3, t.error(503, "overloaded_error"), "503 one 3 whole"),
            ("S04 lasting 503, two", 2, PLAIN, 3, t.error(503, "overloaded_error"), "200 two 2 whole"),
            ("S05 reset after the accept", 1, PLAIN, 1, Reply::reset(), "502 upstream_protocol_error 1 whole"),
            ("S05 reset after the accept, two", 2, PLAIN, 1, Reply::reset(), "200 two 2 whole"),
            ("S05 closed after the accept, two", 2, STREAMED, 1, Reply::close(), "200 two 2 whole"),
            ("S06 silence", 1, PLAIN, 1, Reply::hang(), "504 first_byte_timeout 1 whole"),
            ("S06 silence, two", 2, STREAMED, 1, Reply::hang(), "200 two 2 whole"),
            ("S06 a plain answer takes its time", 2, PLAIN, 1, in_time(Reply::json(200, &json!({}))), "200 one 1 whole"),
            ("S07 late words", 2, STREAMED, 1, Reply::events(&blocks).head_after(Duration::from_secs(3)), "200 two 2 whole"),
            ("S07 late words behind the opening", 2, STREAMED, 1, opening(), "200 two 2 whole"),
            ("S07 beats are no words", 2, STREAMED, 1, beats(": still at it"), "200 two 2 whole"),
            ("S07 pings are no words", 2, STREAMED, 1, beats("event: ping\ndata: {\"type\": \"ping\"}"), "200 two 2 whole"),
            ("S01 429 with a time, two", 2, PLAIN, 1, limited().header("retry-after-ms", "300"), "200 two 2 whole"),
            ("S07 nobody else is there", 1, STREAMED, 1, in_time(Reply::events(&blocks)), "200 one 1 whole"),
        ]
    });
}

#[test]
#[rustfmt::skip]
fn what_breaks_after_its_first_words_is_shown_broken_and_nobody_else_is_asked() {
    let slowly = Duration::from_millis(30);
    let raw_chunks = |first: &str, next: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked";
        Reply::raw(format!("{head}\r\n\r\n{:x}\r\n{first}\r\n{next}", first.len()))
    };
    // S14: the other refuses to go on from half an answer
    let fallback = json!({"models": {
        "m": {"targets": [{"provider": "one", "model": "a"}], "fallbacks": ["other"]},
        "other": {"targets": [{"provider": "two", "model": "b"}]},
    }});
    for (tongue, over) in [(Chat, json!({})), (Chat, fallback.clone()), (Messages, json!({})), (Messages, fallback)] {
        let rig = rig(tongue, 2, over);
        rig.at[1].always(tongue.error(400, "invalid_request_error"));
        let blocks = tongue.blocks();
        let begun = &blocks[..4];
        let text = begun.join("\n\n") + "\n\n";
        for (index, (name, reply, says)) in [
            ("S08 closed", Reply::events(&blocks).every(slowly).cut_after(4), "error"),
            ("S08 reset", Reply::events(&blocks).every(slowly).reset_after(4), "error"),
            ("S08 closed inside an event", Reply::status(200).header("Content-Type", "text/event-stream").body(text.clone() + "data: {\"half").cut_at_byte(text.len() + 12), "error"),
            ("S09 silence", Reply::events(&blocks).every(slowly).hang_after(4), "timeout_error"),
            ("S10 a chunk that is none", raw_chunks(&text, "ZZ\r\nnonsense"), "error"),
            ("S10 a chunk that is longer than what comes", raw_chunks(&text, "4000\r\ndata: {\"half"), "error"),
            ("S10 an event that is no JSON, and the end", Reply::events(&[begun, &["data: {\"choices\": [{\"del".to_owned()]].concat()), "error"),
            ("S11 no end marker", Reply::events(begun), "error"),
            ("S11 no end marker, until the close", Reply::events(begun).until_close(), "error"),
        ].into_iter().enumerate() {
            rig.at[0].next(reply);
            let answer = rig.sees(STREAMED, "200 one 1 broken", name);
            let text = answer.text();
            assert!(text.contains("hello") && text.contains(says) && !text.contains("half"), "{name}: {text}");
            assert!(answer.elapsed < Duration::from_secs(5), "{name}: {:?}", answer.elapsed);
            assert_eq!(rig.counts(), [index + 1, 0], "{name}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn a_prompt_that_is_too_long_goes_to_a_model_that_reads_more_or_is_told() {
    for (tongue, streamed) in [(Chat, PLAIN), (Chat, STREAMED), (Messages, PLAIN), (Messages, STREAMED)] {
        for (window, told) in [(json!(100_000), "200 two 2 whole"), (json!(8_000), "400 one 1 whole"), (Value::Null, "400 one 1 whole")] {
            let rig = rig(tongue, 2, json!({"models": {
                "m": {"targets": [{"provider": "one", "model": "a"}], "fallbacks": ["other"], "context_window": 8_000},
                "other": {"targets": [{"provider": "two", "model": "b"}], "context_window": window},
            }}));
            rig.at[0].always(tongue.too_long());
            rig.sees(streamed, told, "S12");
        }
    }
}

#[test]
#[rustfmt::skip]
fn a_filters_word_and_what_is_the_clients_own_are_nobody_elses_affair() {
    play(|t| {
        let filtered = t.either(
            json!({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "content_filter"}]}),
            json!({"type": "message", "content": [], "stop_reason": "refusal"}),
        );
        let ends = |block: &String| block.replace("\"stop\"", "\"content_filter\"").replace("end_turn", "refusal");
        let stream: Vec<String> = t.blocks()[..1].iter().chain(&t.blocks()[5..]).map(ends).collect();
        let moved = |status: u16, to: &str| Reply::status(status).header("Location", to);
        vec![
            ("S13 400", 2, PLAIN, 3, t.error(400, "content_filter"), "400 one 1 whole"),
            ("S13 400, a stream", 2, STREAMED, 3, t.error(400, "content_policy_violation"), "400 one 1 whole"),
            ("S13 403", 2, PLAIN, 3, t.error(403, "content_filter"), "403 one 1 whole"),
            ("S13 429", 2, PLAIN, 3, t.error(429, "content_filter"), "429 one 1 whole"),
            ("S13 500", 2, PLAIN, 3, t.error(500, "content_filter"), "500 one 1 whole"),
            ("S13 200", 2, PLAIN, 3, Reply::json(200, &filtered), "200 one 1 whole"),
            ("S13 200 with an error in it", 2, PLAIN, 3, Reply::json(200, &t.error_object("content_filter", "content_filter", "no")), "200 one 1 whole"),
            ("S13 200 with an error that blames the server, too", 2, PLAIN, 3, Reply::json(200, &Chat.error_object("server_error", "content_filter", "no")), "200 one 1 whole"),
            ("S13 a stream that says no more", 2, STREAMED, 3, Reply::events(&stream), "200 one 1 whole"),
            ("S13 an event before all others", 2, STREAMED, 3, Reply::events(&[t.error_event("content_filter")]), "200 one 1 failed"),
            ("400", 2, PLAIN, 3, t.error(400, "invalid_request_error"), "400 one 1 whole"),
            ("404", 2, PLAIN, 3, t.error(404, "not_found_error"), "404 one 1 whole"),
            ("413", 2, PLAIN, 3, t.error(413, "request_too_large"), "413 one 1 whole"),
            ("a redirect", 2, PLAIN, 1, moved(302, "http://127.0.0.1:9/"), "302 one 1 whole"),
            ("a redirect that keeps the method", 2, STREAMED, 1, moved(307, "/v1/elsewhere"), "307 one 1 whole"),
        ]
    });
}

#[test]
fn a_dead_target_is_seldom_asked_and_its_traffic_comes_back_by_itself() {
    for dead in [Chat.error(503, "server_error"), Reply::reset()] {
        let over = json!({"router": {"cooldown": {"failures": 2, "duration": "1s"}}});
        let rig = rig(Chat, 2, over);
        rig.at[0].always(dead);
        for _ in 0..20 {
            assert_eq!(served(&rig.ask(PLAIN).expect(200))[0], "two");
            std::thread::sleep(Duration::from_millis(60));
        }
        assert!(rig.at[0].count() <= 3, "S15: {} of 20", rig.at[0].count());
        rig.at[0].forget_scripts();
        let is_back = || served(&rig.ask(PLAIN).expect(200))[0] == "one";
        assert!(wait_until(Duration::from_secs(10), is_back), "S15");
        (0..5).for_each(|_| drop(rig.sees(PLAIN, "200 one 1 whole", "S15")));
    }
}

#[test]
#[rustfmt::skip]
fn who_answered_is_named_and_paid() {
    for (tongue, streamed) in [(Chat, PLAIN), (Chat, STREAMED), (Messages, PLAIN), (Messages, STREAMED)] {
        let rig = rig(tongue, 2, json!({}));
        let opening = tongue.blocks()[..tongue.opening()].join("\n\n").replace("tokens\":9", "tokens\":500");
        rig.at[0].next(if streamed { Reply::events(&[opening]) } else { tongue.error(503, "overloaded_error") });
        let answer = rig.sees(streamed, "200 two 2 whole", "S16");
        assert_eq!(answer.header("x-llm-proxy-model"), Some("model-of-two"));
        let record = rig.edge.record_of(&rig.user);
        assert_eq!(["model", "provider", "served_model"].map(|name| record[name].clone()), ["m", "two", "model-of-two"], "{record}");
        let asked: Vec<_> = record["attempts"].as_array().into_iter().flatten().collect();
        let (last, failed) = asked.split_last().expect("an attempt");
        let used = (&last["provider"], &last["prompt_tokens"], &last["completion_tokens"]);
        assert_eq!(used, (&json!("two"), &json!(9), &json!(4)), "{record}");
        assert!(failed.iter().all(|attempt| attempt["provider"] == "one"), "{record}");
    }
}

/// A server whose answer comes byte by byte.
fn trickling(answer: &'static str, every: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 16 * 1024]);
            for byte in answer.bytes() {
                std::thread::sleep(every);
                // who has left is no error
                let _ = stream.write_all(&[byte]);
            }
        }
    });
    format!("http://{address}")
}

#[test]
#[rustfmt::skip]
fn who_cannot_be_reached_or_dawdles_is_waited_for_so_long_and_no_longer() {
    let (refusing, deaf) = (Refusing::start(), Deaf::start());
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
    let slow = trickling(answer, Duration::from_millis(40));
    let quick = trickling(answer, Duration::from_millis(3));
    for (name, url, targets, streamed, ambiguous, told) in [
        ("refuses", refusing.url(), 1, PLAIN, "auto", "502 upstream_unreachable 3 whole"),
        ("refuses", refusing.url(), 2, PLAIN, "never", "200 two 2 whole"),
        ("never accepts", deaf.url(), 2, STREAMED, "auto", "200 two 2 whole"),
        ("has no name", "http://name.invalid".to_owned(), 2, PLAIN, "auto", "200 two 2 whole"),
        ("a head in time", quick.clone(), 1, PLAIN, "auto", "200 one 1 whole"),
        ("a head in time", quick, 2, PLAIN, "always", "200 one 1 whole"),
        ("a head that is late", slow.clone(), 1, PLAIN, "auto", "504 first_byte_timeout 1 whole"),
        ("a head that is late", slow.clone(), 2, PLAIN, "auto", "504 first_byte_timeout 1 whole"),
        ("a head that is late", slow.clone(), 2, PLAIN, "always", "200 two 2 whole"),
        ("a head that is late", slow, 2, STREAMED, "auto", "200 two 2 whole"),
    ] {
        let over = json!({"router": {"retry_ambiguous": ambiguous}, "providers": {"one": {"base_url": url}}});
        let rig = rig(Chat, targets, over);
        let answer = rig.sees(streamed, told, &format!("{name}, {targets}, {ambiguous}"));
        assert!(answer.elapsed < Duration::from_secs(6), "{name}: {:?}", answer.elapsed);
    }
}

#[test]
#[rustfmt::skip]
fn what_only_looks_like_an_answer_is_none_while_another_may_give_one() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n";
    let page = |status: u16, kind: &str| Reply::status(status).header("Content-Type", kind).body("<html>busy</html>");
    play(|t| {
        let pretty = serde_json::to_vec_pretty(&t.error_object("api_error", "api_error", "no")).unwrap();
        let halves = pretty.chunks(pretty.len() / 2 + 1).map(<[u8]>::to_vec).collect();
        let in_pieces = Reply::status(200).header("Content-Type", "application/json").chunked().pieces(halves);
        let (blocks, opening) = (t.blocks(), t.opening());
        let fails = |behind: usize, word: &str| Reply::events(&[&blocks[..behind], &[t.error_event(word)]].concat());
        let nulls = json!({"error": null, "type": "message", "choices": []});
        vec![
            ("a head without its body", 1, PLAIN, 1, Reply::raw(head), "502 upstream_protocol_error 1 whole"),
            ("a head without its body, two", 2, PLAIN, 1, Reply::raw(head), "200 two 2 whole"),
            ("a head and silence", 2, PLAIN, 1, Reply::raw(head).then_hang(), "504 idle_timeout 1 whole"),
            ("a head of a stream and the end", 2, STREAMED, 1, Reply::events::<&str>(&[]), "200 two 2 whole"),
            ("no HTTP", 2, PLAIN, 1, Reply::raw("220 mail ESMTP\r\n"), "200 two 2 whole"),
            ("a page", 2, PLAIN, 1, page(200, "text/html; charset=utf-8"), "200 two 2 whole"),
            ("a page, a stream", 2, STREAMED, 1, page(200, "Text/HTML"), "200 two 2 whole"),
            ("a page with 502", 2, PLAIN, 1, page(502, "text/html"), "200 two 2 whole"),
            ("a page with 502 that lasts", 1, PLAIN, 3, page(502, "text/html"), "502 one 3 whole"),
            ("an error with 200", 2, PLAIN, 1, t.error(200, "api_error"), "200 two 2 whole"),
            ("an error with 200, a stream", 2, STREAMED, 1, t.error(200, "overloaded_error"), "200 two 2 whole"),
            ("an error with 200 in pieces", 2, PLAIN, 1, in_pieces, "200 two 2 whole"),
            ("an error with 200 where nobody else is", 1, PLAIN, 1, t.error(200, "server_error"), "200 one 1 whole"),
            ("the client's error with 200", 2, PLAIN, 1, t.error(200, "invalid_request_error"), "200 one 1 whole"),
            ("an error that is null", 2, PLAIN, 1, Reply::json(200, &nulls), "200 one 1 whole"),
            ("an error event", 2, STREAMED, 1, fails(0, "overloaded_error"), "200 two 2 whole"),
            ("an error event behind the opening", 2, STREAMED, 1, fails(opening, "api_error"), "200 two 2 whole"),
            ("an error event behind words", 2, STREAMED, 1, fails(4, "overloaded_error"), "200 one 1 failed"),
            ("the client's error event", 2, STREAMED, 1, fails(0, "invalid_request_error"), "200 one 1 failed"),
            ("a stream cut behind its opening", 2, STREAMED, 1, Reply::events(&blocks).cut_after(opening), "200 two 2 whole"),
            ("an opening and nonsense", 2, STREAMED, 1, Reply::events(&[&blocks[..opening], &["data: {\"cho".to_owned()]].concat()), "200 two 2 whole"),
        ]
    });
}

#[test]
#[rustfmt::skip]
fn end_markers_that_are_missing_twice_there_or_alone_pass_as_they_come() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":0,\"total_tokens\":9}}";
    let (done, words) = ("data: [DONE]", chat_chunks("m")[..6].join("\n\n"));
    for (name, blocks, provider) in [
        ("none, but a finish", vec![&*words, usage], "one"),
        ("two", vec![&words, usage, done, done], "one"),
        ("nothing but usage", vec![usage, done], "one"),
        ("nothing but usage, and no marker", vec![usage], "two"),
    ] {
        let rig = rig(Chat, 2, json!({}));
        rig.at[0].next(Reply::events(&blocks));
        let mut body = chat_streamed("m");
        body["stream_options"] = json!({"include_usage": true});
        let answer = rig.user.post("/v1/chat/completions", body).expect(200);
        assert!(answer.end.is_whole() && served(&answer)[0] == provider, "{name}: {}", answer.text());
        let as_it_came = answer.text() == blocks.join("\n\n") + "\n\n";
        assert_eq!(as_it_came, provider == "one", "{name}: {}", answer.text());
    }
}

#[test]
#[rustfmt::skip]
fn two_are_dead_and_the_third_answers_and_when_none_does_the_newest_answer_is_told() {
    let gone = Refusing::start();
    for (tongue, streamed) in [(Chat, PLAIN), (Messages, STREAMED)] {
        for (first, second) in [
            (tongue.error(503, "overloaded_error"), tongue.error(200, "api_error")),
            (Reply::status(502).header("Content-Type", "text/html").body("<html>"), tongue.error(401, "authentication_error")),
            (tongue.error(429, "rate_limit_error").header("Retry-After", "60"), Reply::reset()),
        ] {
            let rig = rig(tongue, 3, json!({}));
            rig.at[0].next(first);
            rig.at[1].next(second);
            rig.sees(streamed, "200 three 3 whole", "two are dead");
            assert_eq!(rig.counts(), [1, 1, 1]);
        }
        let rig = rig(tongue, 3, json!({"providers": {"three": {"base_url": gone.url()}}}));
        rig.at[0].always(tongue.error(503, "first").header("x-kept", "first"));
        rig.at[1].always(tongue.error(529, "second").header("x-kept", "second"));
        let answer = rig.sees(streamed, "529 two 3 whole", "all are dead");
        assert_eq!(["x-kept", "x-llm-proxy-model"].map(|name| answer.header(name)), [Some("second"), Some("model-of-two")]);
        assert!(answer.text().contains("\"second\""), "{}", answer.text());
    }
}

fn carries_a(seen: &Seen) -> bool {
    seen.header("authorization") == Some("Bearer sk-a-a-a-a-a-a-a-a")
}

#[test]
fn a_key_revoked_in_mid_traffic_fails_nobody_and_is_left_alone() {
    let keys = json!([{"id": "a", "key": "sk-a-a-a-a-a-a-a-a"}, {"id": "b", "key": "sk-b-b-b-b-b-b-b-b"}]);
    let over = json!({"providers": {"one": {"api_key": null, "api_keys": keys}}});
    let rig = rig(Chat, 1, over);
    let provider = &rig.at[0];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| drop(rig.ask(PLAIN).expect(200))));
        }
        provider.wait_for_requests(30);
        provider.on(|seen| carries_a(seen).then(|| Chat.error(401, "invalid_api_key")));
    });
    // each of the four may have had the key in its hand
    let refused = provider.count() - 100;
    assert!((1..=4).contains(&refused), "{refused}");
    (0..10).for_each(|_| drop(rig.sees(PLAIN, "200 one 1 whole", "the other key")));
    assert!(!provider.seen_since(100 + refused).iter().any(carries_a));
}

#[test]
#[rustfmt::skip]
fn what_lasts_at_one_target_costs_no_client_the_answer_of_the_other() {
    let over = json!({"router": {"cooldown": {"failures": 5}}, "models": {
        "m": {"targets": [{"provider": "one", "model": "a"}], "fallbacks": ["other"], "context_window": 8_000},
        "other": {"targets": [{"provider": "two", "model": "b"}], "context_window": 100_000},
    }});
    for (name, reply) in [("S02", Chat.error(429, "rate_limit_error")), ("S04", Chat.error(503, "server_error")), ("S12", Chat.too_long())] {
        let rig = rig(Chat, 2, over.clone());
        rig.at[0].always(reply);
        let statuses: Vec<u16> = (0..30).map(|_| rig.ask(PLAIN).status).collect();
        assert_eq!(statuses, [200; 30], "{name}");
    }
}

/// A date so many seconds from now, as HTTP writes it.
fn date_in(seconds: &str) -> String {
    let when = format!("--date={seconds} seconds");
    let what = ["-u", &when, "+%a, %d %b %Y %H:%M:%S GMT"];
    let output = Command::new("date").env("LC_ALL", "C").args(what).output();
    let output = output.expect("the date");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
#[rustfmt::skip]
fn when_a_provider_says_how_long_it_is_waited_for_or_not_believed() {
    for (field, said, waits_millis) in [
        ("retry-after-ms", "600", 600..3_000),
        ("Retry-After", "1", 1_000..4_000),
        ("date", "3", 1_000..9_000),
        // nothing that lies ahead: the usual pause
        ("date", "-30", 10..900),
        ("Retry-After", "-5", 10..900),
        ("Retry-After", "0", 10..900),
        ("Retry-After", "soon", 10..900),
        ("retry-after-ms", "-300", 10..900),
    ] {
        for status in [429, 503] {
            let rig = rig(Chat, 1, json!({}));
            let refusal = Chat.error(status, "slow_down");
            rig.at[0].next(match field {
                "date" => refusal.header("Retry-After", &date_in(said)),
                field => refusal.header(field, said),
            });
            let answer = rig.sees(PLAIN, "200 one 2 whole", &format!("{status} {field}: {said}"));
            let millis = answer.elapsed.as_millis();
            assert!(waits_millis.contains(&millis), "{status} {field}: {said}: {millis} ms");
        }
    }
}

#[test]
#[rustfmt::skip]
fn an_hour_is_not_waited_for() {
    for (value, status) in [("3600".to_owned(), 429), (date_in("3600"), 429), ("3600".to_owned(), 503)] {
        let refusal = || Chat.error(status, "slow_down").header("Retry-After", &value);
        let alone = rig(Chat, 1, json!({}));
        alone.at[0].always(refusal());
        let answer = alone.sees(PLAIN, &format!("{status} one 1 whole"), &value);
        assert_eq!(answer.header("retry-after"), Some(&*value));
        assert!(answer.elapsed < Duration::from_millis(900), "{:?}", answer.elapsed);
        let answer = alone.ask(PLAIN).refused(503, "circuit_open");
        let after: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!((61..=3_600).contains(&after), "{after}");
        assert_eq!(alone.counts(), [1]);
        let two = rig(Chat, 2, json!({}));
        two.at[0].always(refusal());
        let answer = two.sees(PLAIN, "200 two 2 whole", "another answers at once");
        assert!(answer.elapsed < Duration::from_millis(900), "{:?}", answer.elapsed);
        two.sees(PLAIN, "200 two 1 whole", "it is left alone");
    }
}

#[test]
#[rustfmt::skip]
fn no_credential_of_one_provider_ever_reaches_another() {
    let own = "sk-own-key-of-the-project";
    let secrets = ["sk-of-one-one", own, "sk-pool-a-a-a-a", "sk-pool-b-b-b-b", "sk-of-three-three", "secret-of-the-gateway"];
    let may_see: [&[&str]; 3] = [&secrets[..2], &secrets[2..4], &secrets[4..]];
    for tongue in [Chat, Messages] {
        let rig = rig(tongue, 3, json!({"providers": {
            "two": {"api_key": null, "api_keys": [{"id": "a", "key": secrets[2]}, {"id": "b", "key": secrets[3]}]},
            "three": {"headers": {"x-gateway": secrets[5]}},
        }}));
        let project = rig.edge.project(json!({"providers": {"one": own}}));
        let owner = rig.edge.token_of(&project, json!({}));
        for reply in [tongue.error(503, "api_error"), Reply::reset(), Reply::events(&tongue.blocks()).cut_after(1)] {
            for user in [&rig.user, &owner] {
                rig.at[0].next(reply.clone());
                rig.at[1].next(reply.clone());
                assert_eq!(served(&tongue.ask(user, STREAMED).expect(200))[0], "three");
            }
        }
        assert_eq!(rig.counts(), [6, 6, 6]);
        for (provider, may_see) in rig.at.iter().zip(may_see) {
            for seen in provider.seen() {
                let head = String::from_utf8_lossy(&seen.raw_head).into_owned();
                let fields = ["authorization", "x-api-key", "api-key"].map(|name| seen.headers.all(name).len());
                assert_eq!(fields.iter().sum::<usize>(), 1, "{head}");
                let found: Vec<&str> = secrets.into_iter().filter(|secret| head.contains(secret)).collect();
                assert!(!found.is_empty() && found.iter().all(|secret| may_see.contains(secret)), "{head}");
                assert!(![&rig.user, &owner].iter().any(|user| head.contains(&user.secret)), "{head}");
            }
        }
    }
}
