//! Pictures, sounds and speech: paid by the piece, the minute and the character, or by tokens where a provider tells them.

use serde_json::{Value, json};

use crate::edge::{TestEdge, TokenUser};
use crate::for_both_stores;
use crate::http::{Answer, Request};
use crate::provider::{Provider, Reply};

fn prices() -> Value {
    json!({"prices": {"overrides": {
        "painter": {"usd_per_image": 0.04},
        "listener": {"usd_per_audio_minute": 0.006},
        "speaker": {"usd_per_million_characters": 15},
        "token-painter": {"input_usd_per_mtok": 5, "output_usd_per_mtok": 40},
    }}})
}

fn start() -> (Provider, TestEdge, TokenUser) {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider).with(prices()).start();
    let user = edge.token(json!({}));
    (provider, edge, user)
}

#[track_caller]
fn costs(record: &Value, usd: f64) {
    let found = record["cost_usd"].as_f64().expect("a number");
    assert!((found - usd).abs() < 1e-12, "{found} is not {usd}: {record:#?}");
}

/// Some sound of that many bytes, to be written down.
fn transcription(user: &TokenUser, format: &str, bytes: usize) -> Answer {
    let mut body = Vec::new();
    for (name, value) in [
        ("model", "listener"),
        ("response_format", format),
        ("prompt", "names"),
    ] {
        body.extend_from_slice(
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").as_bytes(),
        );
    }
    body.extend_from_slice(
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n",
    );
    body.extend((0..bytes).map(|n| (n * 31 % 251) as u8));
    body.extend_from_slice(b"\r\n--b--\r\n");
    let request = Request::new("POST", "/v1/audio/transcriptions")
        .header("Content-Type", "multipart/form-data; boundary=b")
        .bytes(body);
    user.send(request)
}

fn pictures(count: usize) -> Reply {
    let data: Vec<Value> = (0..count)
        .map(|_| json!({"url": "https://pictures.example/1"}))
        .collect();
    Reply::json(200, &json!({"created": 1, "data": data}))
}

fn paint(user: &TokenUser, n: usize) -> Answer {
    user.post(
        "/v1/images/generations",
        json!({"model": "painter", "prompt": "a fox", "n": n}),
    )
}

for_both_stores! {
    fn pictures_are_paid_by_the_piece(store) {
        let provider = Provider::start();
        let edge = TestEdge::plan(&provider).with(prices()).on(store).start();
        let user = edge.token(json!({}));
        provider.next(pictures(3));
        paint(&user, 3).expect(200);
        let record = edge.record_of(&user);
        costs(&record, 0.12);
        assert_eq!((&record["images"], &record["estimated"]), (&json!(3), &json!(false)));
        assert_eq!((&record["prompt_tokens"], &record["audio_seconds"]), (&json!(0), &json!(0.0)));
        let csv = edge.admin().get("/manage/usage/records?format=csv").expect(200).text();
        assert!(csv.lines().next().is_some_and(|head| head.ends_with(",images,audio_seconds,characters")), "{csv}");
        assert!(csv.contains(",3,0.0,0"), "{csv}");
    }
}

#[test]
fn pictures_that_tell_tokens_are_paid_by_them() {
    let (provider, edge, user) = start();
    provider.next(Reply::json(
        200,
        &json!({"created": 1, "data": [{"b64_json": "aGk="}],
            "usage": {"input_tokens": 50, "output_tokens": 1000, "total_tokens": 1050,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}}),
    ));
    user.post(
        "/v1/images/generations",
        json!({"model": "token-painter", "prompt": "a fox"}),
    )
    .expect(200);
    let record = edge.record_of(&user);
    costs(&record, 0.04025);
    assert_eq!(
        (&record["images"], &record["completion_tokens"]),
        (&json!(1), &json!(1000))
    );
}

#[test]
fn sounds_are_paid_by_the_length_that_the_provider_tells() {
    let (provider, edge, user) = start();
    provider.next(Reply::json(
        200,
        &json!({"text": "hello", "usage": {"type": "duration", "seconds": 90}}),
    ));
    transcription(&user, "json", 300_000).expect(200);
    let told = edge.record_of(&user);
    costs(&told, 0.009);
    assert_eq!(
        (&told["audio_seconds"], &told["estimated"]),
        (&json!(90.0), &json!(false))
    );
    let user = edge.token(json!({}));
    provider.next(Reply::json(
        200,
        &json!({"task": "transcribe", "duration": 30.5, "text": "hello"}),
    ));
    transcription(&user, "verbose_json", 1000).expect(200);
    costs(&edge.record_of(&user), 0.00305);
}

#[test]
fn a_sound_whose_length_nobody_tells_is_as_long_as_its_bytes_say() {
    let (provider, edge, user) = start();
    provider.next(
        Reply::status(200)
            .header("Content-Type", "text/plain")
            .body("hello\n"),
    );
    transcription(&user, "text", 480_000).expect(200);
    let record = edge.record_of(&user);
    assert_eq!(record["estimated"], true);
    let seconds = record["audio_seconds"].as_f64().expect("a number");
    assert!((60.0..61.0).contains(&seconds), "{seconds}");
    assert_eq!(record["prompt_tokens"], 0, "a file is no text");
}

#[test]
fn speech_is_paid_by_the_character() {
    let (provider, edge, user) = start();
    provider.next(
        Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .body(vec![0xff; 5000]),
    );
    let text = "Grüße aus München!";
    user.post(
        "/v1/audio/speech",
        json!({"model": "speaker", "voice": "a", "input": text}),
    )
    .expect(200);
    let record = edge.record_of(&user);
    assert_eq!(record["characters"], 18);
    costs(&record, 0.00027);
    assert_eq!(record["estimated"], false);
}

#[test]
fn a_budget_holds_for_what_is_paid_by_the_piece() {
    let (provider, edge, _) = start();
    let budget = |usd: f64| json!({"budget": {"usd": usd, "period": "total"}});
    let user = edge.token(budget(0.1));
    provider.next(pictures(2));
    paint(&user, 2).expect(200);
    // 0.02 are left: what is declared is known exactly
    paint(&user, 1).refused(429, "budget_exceeded");
    let user = edge.token(budget(0.001));
    let say = |input: &str| {
        user.post(
            "/v1/audio/speech",
            json!({"model": "speaker", "voice": "a", "input": input}),
        )
    };
    say(&"long ".repeat(100)).refused(429, "budget_exceeded");
    provider.next(
        Reply::status(200)
            .header("Content-Type", "audio/mpeg")
            .body(vec![1; 10]),
    );
    say("short").expect(200);
    // a picture's price is none for a chat, nor a minute's for a picture
    let chat = json!({"model": "painter", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    user.post("/v1/chat/completions", chat)
        .refused(400, "price_unknown");
    user.post(
        "/v1/images/generations",
        json!({"model": "listener", "prompt": "a fox"}),
    )
    .refused(400, "price_unknown");
    // nobody knows how long a sound is: the first may go beyond, none after it
    let user = edge.token(budget(0.001));
    provider.next(Reply::json(
        200,
        &json!({"text": "x", "usage": {"type": "duration", "seconds": 600}}),
    ));
    transcription(&user, "json", 20_000).expect(200);
    transcription(&user, "json", 20_000).refused(429, "budget_exceeded");
}
