//! The inspector against tables and against a full parser.

use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

fn facts(body: &str) -> BodyFacts {
    inspect(&WatchedKeys::default(), body.as_bytes()).expect(body)
}

fn refusal(body: impl AsRef<[u8]>) -> InspectError {
    inspect(&WatchedKeys::default(), body.as_ref()).expect_err("a refusal")
}

fn slice(body: &str, span: Span) -> &str {
    &body[span.start..span.end]
}

#[test]
fn members_are_found_with_their_spans() {
    let body = r#" {"messages":[{"role":"user","content":"model"}], "model" : "gpt-4o" ,"stream":true,
        "max_tokens":16,"max_completion_tokens":32,"n":2,"temperature":0.0} "#;
    let found = facts(body);
    let model = found.model.as_ref().expect("a model");
    assert_eq!(model.name, "gpt-4o");
    assert_eq!(slice(body, model.span), r#""gpt-4o""#);
    assert!(found.is_stream());
    assert_eq!(
        (found.max_tokens, found.max_completion_tokens, found.n),
        (Some(16), Some(32), Some(2))
    );
    assert_eq!(found.declared_output_tokens(), Some(64));
    assert!(found.temperature_is_zero);
    assert_eq!((found.open, found.empty, found.length), (1, false, body.len()));
}

#[test]
fn nested_members_of_the_same_name_are_not_read() {
    let found = facts(r#"{"metadata":{"model":"a","stream":true,"model":"b"},"x":[{"model":1}]}"#);
    assert_eq!(found.model, None);
    assert_eq!(found.stream, None);
    assert!(!found.empty);
    assert!(facts("{}").empty);
}

#[test]
fn names_are_compared_with_escapes_decoded() {
    assert_eq!(
        facts(r#"{"mod\u0065l":"a\u00e9\ud83d\ude00\n"}"#).model_name(),
        Some("aé😀\n")
    );
    let twice = refusal(r#"{"model":"a","mod\u0065l":"b"}"#);
    assert_eq!(twice, InspectError::DuplicateKey("model".into()));
    assert_eq!(twice.param(), Some("model"));
}

#[test]
fn a_read_name_that_occurs_twice_is_refused() {
    let keys = WatchedKeys::new(["top_p", "model"]);
    for body in [
        r#"{"stream":true,"stream":false}"#,
        r#"{"stream_options":null,"stream_options":{}}"#,
        r#"{"max_tokens":null,"max_tokens":1}"#,
        r#"{"top_p":1,"top_p":1}"#,
        r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#,
    ] {
        let error = inspect(&keys, body.as_bytes()).expect_err(body);
        assert!(matches!(error, InspectError::DuplicateKey(_)), "{body}: {error}");
    }
    assert!(inspect(&keys, br#"{"user":1,"user":2}"#).is_ok());
}

#[test]
fn wrong_types_of_what_decides_are_refused_and_others_are_undeclared() {
    for body in [
        r#"{"model":7}"#,
        r#"{"model":null}"#,
        r#"{"model":["a"]}"#,
        r#"{"model":{}}"#,
    ] {
        assert_eq!(refusal(body).param(), Some("model"), "{body}");
    }
    for body in [r#"{"stream":"true"}"#, r#"{"stream":1}"#, r#"{"stream":{}}"#] {
        assert_eq!(refusal(body).param(), Some("stream"), "{body}");
    }
    assert_eq!(facts(r#"{"stream":null}"#).stream, None);
    for value in [
        "0",
        "-1",
        "1.5",
        "1e3",
        "\"5\"",
        "null",
        "[1]",
        "99999999999999999999",
    ] {
        assert_eq!(
            facts(&format!(r#"{{"max_tokens":{value}}}"#)).max_tokens,
            None,
            "{value}"
        );
    }
}

#[test]
fn zero_is_zero_in_every_spelling() {
    for (value, expected) in [
        ("0", true),
        ("-0.00", true),
        ("0e5", true),
        ("0.0E-7", true),
        ("1e-999", false),
        ("0.1", false),
        ("\"0\"", false),
    ] {
        assert_eq!(
            facts(&format!(r#"{{"temperature":{value}}}"#)).temperature_is_zero,
            expected,
            "{value}"
        );
    }
}

#[test]
fn stream_options_are_told_apart() {
    let of = |options: &str| facts(&format!(r#"{{"stream_options":{options}}}"#)).stream_options;
    assert_eq!(facts("{}").stream_options, StreamOptions::Absent);
    assert_eq!(of("null"), StreamOptions::Null(Span { start: 18, end: 22 }));
    assert_eq!(of("[]"), StreamOptions::Other);
    assert_eq!(of("\"x\""), StreamOptions::Other);
    let object = |empty, include_usage| StreamOptions::Object {
        open: 18,
        empty,
        include_usage,
    };
    assert_eq!(of("{}"), object(true, IncludeUsage::Absent));
    assert_eq!(
        of(r#"{"a":{"include_usage":true}}"#),
        object(false, IncludeUsage::Absent)
    );
    assert_eq!(of(r#"{"include_usage":true}"#), object(false, IncludeUsage::Yes));
    assert_eq!(
        of(r#"{"include_usage":false}"#),
        object(false, IncludeUsage::No(Span { start: 35, end: 40 }))
    );
    assert_eq!(of(r#"{"include_usage":{}}"#), object(false, IncludeUsage::Other));
}

#[test]
fn watched_parameters_are_given_as_text() {
    let keys = WatchedKeys::new(["model", "top_p", "user", "stop", "logprobs", "absent"]);
    let body =
        br#"{"model":"m","top_p":0.50,"user":"a\"b","stop":["x",{"user":1}],"logprobs":false,"other":1}"#;
    let found = inspect(&keys, body).expect("facts");
    let text = |name: &str| found.parameter(name).and_then(ParameterValue::as_text);
    assert_eq!(text("model"), Some("m"));
    assert_eq!(text("top_p"), Some("0.50"));
    assert_eq!(text("user"), Some("a\"b"));
    assert_eq!(text("logprobs"), Some("false"));
    assert_eq!(found.parameter("stop"), Some(&ParameterValue::Composite));
    assert_eq!(found.parameter("absent"), None);
    assert_eq!(found.parameters().count(), 5);
}

#[test]
fn what_is_captured_is_bounded() {
    let keys = WatchedKeys::new(["user"]);
    let long = |key: &str, length: usize| format!(r#"{{"{key}":"{}"}}"#, "a".repeat(length));
    for (key, limit) in [("model", MAX_MODEL_BYTES), ("user", MAX_PARAMETER_BYTES)] {
        assert!(inspect(&keys, long(key, limit).as_bytes()).is_ok());
        let error = inspect(&keys, long(key, limit + 1).as_bytes()).expect_err("too long");
        assert_eq!(
            error,
            InspectError::TooLong {
                key: key.into(),
                limit
            }
        );
    }
    assert!(inspect(&keys, long("messages", 1 << 20).as_bytes()).is_ok());
    assert!(inspect(&keys, format!(r#"{{"{}":1}}"#, "k".repeat(1 << 20)).as_bytes()).is_ok());
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(inspect(&WatchedKeys::default(), nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(
        refusal(nested(MAX_DEPTH + 1)),
        InspectError::TooDeep { limit: MAX_DEPTH }
    );
    assert!(matches!(
        refusal("[".repeat(100_000)),
        InspectError::NotAnObject { .. }
    ));
    assert!(matches!(
        refusal(r#"{"a":"#.repeat(100_000)),
        InspectError::TooDeep { .. }
    ));
}

#[test]
fn malformed_bodies_are_refused_with_a_position() {
    for body in [
        "",
        "  ",
        "[]",
        "1",
        "\"a\"",
        "null",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":+1}",
        "{\"a\":tru}",
        "{\"a\":nul",
        "{\"a\":NaN}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[}",
        "{\"a\":]}",
        "{}x",
        "{}{}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "\u{feff}{}",
        "{\"a\":1}//",
        "{\"a\":\"\\u12\"}",
    ] {
        refusal(body);
    }
    assert_eq!(
        refusal("{\"a\":01}"),
        InspectError::Malformed {
            offset: 6,
            expected: "`,` or `}` after a member"
        }
    );
    assert_eq!(
        refusal(r#"{"a":x}"#).to_string(),
        "malformed JSON at byte 5: expected a value"
    );
    assert!(refusal("[]").to_string().contains("an object `{…}` is expected"));
}

#[test]
fn broken_utf8_is_refused_and_lone_surrogates_only_where_read() {
    for bytes in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xe2\x82",
        b"\x80",
    ] {
        let body = [b"{\"a\":\"", bytes, b"\"}"].concat();
        assert!(
            matches!(refusal(body), InspectError::Malformed { .. }),
            "{bytes:x?}"
        );
    }
    assert!(inspect(&WatchedKeys::default(), br#"{"messages":"\ud83d","\ud83d":1}"#).is_ok());
    for body in [
        r#"{"model":"\ud83d"}"#,
        r#"{"model":"\ud83dx"}"#,
        r#"{"model":"\ude00"}"#,
        r#"{"model":"\ud83d\ud83d\ude00"}"#,
    ] {
        assert_eq!(refusal(body).param(), Some("model"), "{body}");
    }
}

/// The members of the top object, in order, duplicates kept.
#[derive(Debug)]
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn string_token() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
        2 => Just(r#""gpt-4o""#.to_owned()),
        2 => Just(r#""\u0041\ud83d\ude00\/\b""#.to_owned()),
        1 => "[ -~]{30,80}".prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ]
}

fn key_token() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#""model""#.to_owned()),
        Just(r#""mod\u0065l""#.to_owned()),
        Just(r#""stream""#.to_owned()),
        Just(r#""max_tokens""#.to_owned()),
        Just(r#""stream_options""#.to_owned()),
        Just(r#""include_usage""#.to_owned()),
        Just(r#""user""#.to_owned()),
        string_token(),
        string_token(),
    ]
}

fn value_token() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string_token(),
        any::<i32>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
        prop_oneof![
            Just("1e5"),
            Just("0.10E-3"),
            Just("-0"),
            Just("true"),
            Just("false"),
            Just("null")
        ]
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(" ,"))),
            object_of(inner),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((key_token(), value), 0..5).prop_map(|members| {
        let members: Vec<String> = members
            .into_iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        format!("{{\n{}\t}}\r\n", members.join(","))
    })
}

/// A document, now and then with a few bytes damaged.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..3);
    let whole = prop_oneof![6 => object_of(value_token()), 1 => value_token()];
    (whole, damage).prop_map(|(text, damage)| {
        let mut bytes = text.into_bytes();
        for (place, kind, byte) in damage {
            let at = place.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 => bytes.insert(at, b"{}[]\",:\\"[usize::from(byte) % 8]),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => {}
            }
        }
        bytes
    })
}

/// What a full parser makes of the body; none where the two readings may differ.
fn reference(body: &[u8], keys: &[&str]) -> Option<Result<Members, &'static str>> {
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(body) {
        let text = error.to_string();
        let differs = ["number out of range", "surrogate", "hex escape"]
            .iter()
            .any(|known| text.contains(known));
        return (!differs).then_some(Err("malformed"));
    }
    let Ok(members) = serde_json::from_slice::<Members>(body) else {
        return Some(Err("no object"));
    };
    for key in keys {
        if members.0.iter().filter(|(name, _)| name == key).count() > 1 {
            return Some(Err("twice"));
        }
    }
    Some(Ok(members))
}

const READ: [&str; 8] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "user",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_inspector_says_what_a_full_parser_says(
        body in document(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let keys = WatchedKeys::new(["user"]);
        let whole = inspect(&keys, &body);

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let mut inspector = Inspector::new(&keys);
        let fed = cuts.windows(2).try_for_each(|pair| inspector.feed(&body[pair[0]..pair[1]]));
        prop_assert_eq!(&whole, &fed.and_then(|()| inspector.finish()), "any split gives the same");

        let Some(expected) = reference(&body, &READ) else { return Ok(()) };
        let members = match (expected, &whole) {
            (Err(_), outcome) => { prop_assert!(outcome.is_err()); return Ok(()) }
            (Ok(members), _) => members,
        };
        let value = |name: &str| members.0.iter().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
        match whole {
            Ok(found) => {
                prop_assert_eq!(found.model_name().map(str::to_owned), value("model").map(|raw| serde_json::from_str::<String>(raw).expect("a string")));
                prop_assert_eq!(found.stream, value("stream").and_then(|raw| serde_json::from_str::<Option<bool>>(raw).expect("a bool")));
                prop_assert_eq!(found.max_tokens, value("max_tokens").and_then(|raw| raw.parse().ok()).filter(|&count: &u64| count > 0));
                prop_assert_eq!(found.empty, members.0.is_empty());
                if let Some(model) = &found.model {
                    prop_assert_eq!(&body[model.span.start..model.span.end], value("model").expect("raw").as_bytes());
                }
                prop_assert_eq!(found.parameter("user").is_some(), value("user").is_some());
            }
            Err(InspectError::WrongType { key: "model", .. }) => prop_assert!(!value("model").is_some_and(|raw| raw.starts_with('"'))),
            Err(InspectError::WrongType { key: "stream", .. }) => {
                prop_assert!(!matches!(value("stream"), None | Some("true" | "false" | "null")));
            }
            Err(InspectError::TooLong { .. }) => {}
            Err(InspectError::DuplicateKey(name)) => prop_assert_eq!(name, "stream_options.include_usage"),
            Err(error) => prop_assert!(false, "refused a good body: {error}"),
        }
    }
}
