use super::*;

fn events(kind: StreamKind, data: &[&str]) -> (Option<TokenUsage>, String, bool) {
    let mut reader = UsageReader::new(kind);
    for data in data {
        reader.event(data.as_bytes());
    }
    let text = String::from_utf8(std::mem::take(reader.text())).unwrap();
    (reader.usage(), text, reader.is_final())
}

fn body(kind: StreamKind, body: &str) -> (Option<TokenUsage>, String) {
    let mut results = Vec::new();
    for size in [1, 7, body.len()] {
        let mut reader = UsageReader::new(kind);
        for piece in body.as_bytes().chunks(size) {
            reader.body(piece);
        }
        let text = String::from_utf8(std::mem::take(reader.text())).unwrap();
        results.push((reader.usage(), text));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    results.remove(0)
}

fn usage(prompt: u64, completion: u64, read: u64, write: u64, reasoning: u64) -> TokenUsage {
    TokenUsage {
        prompt,
        completion,
        cache_read: read,
        cache_write: write,
        cache_write_1h: 0,
        reasoning,
        ..TokenUsage::default()
    }
}

#[test]
fn plain_answers_tell_their_usage() {
    let chat = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"Hello \"you\"","tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1}"}}]}}],
        "usage":{"prompt_tokens":20,"completion_tokens":7,"total_tokens":27,"prompt_tokens_details":{"cached_tokens":5,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
    assert_eq!(
        body(StreamKind::Chat, chat),
        (Some(usage(20, 7, 5, 0, 3)), "Hello \"you\"{\"a\":1}".to_owned())
    );
    let message = r#"{"type":"message","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":10,"cache_creation_input_tokens":4,
        "cache_read_input_tokens":6,"cache_creation":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":3},"output_tokens":2,"service_tier":"standard"}}"#;
    let (found, text) = body(StreamKind::Messages, message);
    assert_eq!(
        (found, text.as_str()),
        (
            Some(TokenUsage {
                cache_write_1h: 3,
                ..usage(20, 2, 6, 4, 0)
            }),
            "Hi"
        )
    );
    let response = r#"{"object":"response","output":[{"content":[{"type":"output_text","text":"Yes"}]}],"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":2},"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":13}}"#;
    assert_eq!(
        body(StreamKind::Responses, response),
        (Some(usage(9, 4, 2, 0, 1)), "Yes".to_owned())
    );
    let embedding = r#"{"data":[{"embedding":[0.1,0.2]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(body(StreamKind::Other, embedding).0, Some(usage(8, 0, 0, 0, 0)));
    let total = r#"{"usage":{"total_tokens":30}}"#;
    assert_eq!(body(StreamKind::Other, total).0, Some(usage(30, 0, 0, 0, 0)));
}

#[test]
fn what_is_no_usage_says_nothing() {
    for text in [
        "{}",
        r#"{"usage":null}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":{"prompt_tokens":-1,"completion_tokens":1.5}}"#,
        r#"{"usage":{"prompt_tokens":"5"}}"#,
        r#"{"choices":[{"usage":{"prompt_tokens":5}}]}"#,
        r#"{"other":{"usage":{"prompt_tokens":5}}}"#,
        r#"{"usage":[{"prompt_tokens":5}]}"#,
        r#"{"prompt_tokens":5}"#,
        "no json",
        "[1]",
    ] {
        assert_eq!(body(StreamKind::Chat, text).0, None, "{text}");
    }
    // what came before the nonsense counts
    let broken = r#"{"usage":{"prompt_tokens":5,"completion_tokens":1}, oops"#;
    assert_eq!(body(StreamKind::Chat, broken).0, Some(usage(5, 1, 0, 0, 0)));
}

#[test]
fn streams_tell_it_at_their_end_and_text_on_the_way() {
    let chat = events(
        StreamKind::Chat,
        &[
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"Hel"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"lo"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
            "[DONE]",
        ],
    );
    assert_eq!(chat, (Some(usage(3, 2, 0, 0, 0)), "Hello{}".to_owned(), true));
    let messages = [
        r#"{"type":"message_start","message":{"content":[],"usage":{"input_tokens":5,"cache_read_input_tokens":2,"output_tokens":1}}}"#,
        r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}"#,
    ];
    assert_eq!(
        events(StreamKind::Messages, &messages[..3]),
        (Some(usage(7, 1, 2, 0, 0)), "Hi".to_owned(), false)
    );
    assert_eq!(
        events(StreamKind::Messages, &messages),
        (Some(usage(7, 9, 2, 0, 0)), "Hihm".to_owned(), true)
    );
    let responses = [
        r#"{"type":"response.created","response":{"output":[],"usage":null}}"#,
        r#"{"type":"response.output_text.delta","delta":"Yes"}"#,
        r#"{"type":"response.output_text.done","text":"Yes"}"#,
        r#"{"type":"response.completed","response":{"output":[{"content":[{"text":"Yes"}]}],"usage":{"input_tokens":4,"output_tokens":1,"total_tokens":5}}}"#,
    ];
    assert_eq!(
        events(StreamKind::Responses, &responses),
        (Some(usage(4, 1, 0, 0, 0)), "Yes".to_owned(), true)
    );
}

#[test]
fn pictures_are_counted_and_sounds_measured() {
    let read = |body: &str| {
        let mut reader = UsageReader::new(StreamKind::Other);
        for piece in body.as_bytes().chunks(7) {
            reader.body(piece);
        }
        (reader.items(), reader.audio_millis(), reader.usage().is_some())
    };
    let pictures = r#"{"created":1,"data":[{"b64_json":"aGk=","url":null,"revised_prompt":"{}"},{"url":"https://a/b"}]}"#;
    assert_eq!(read(pictures), (2, None, false));
    let with_tokens = r#"{"data":[{"b64_json":"aGk="}],"usage":{"input_tokens":5,"output_tokens":7,"input_tokens_details":{"image_tokens":3}}}"#;
    assert_eq!(read(with_tokens), (1, None, true));
    let timed = r#"{"text":"hi","usage":{"type":"duration","seconds":12}}"#;
    assert_eq!(read(timed), (0, Some(12_000), false));
    let verbose = r#"{"task":"transcribe","duration":8.470000267028809,"text":"hi","segments":[{"duration":99,"seconds":99}]}"#;
    assert_eq!(read(verbose), (0, Some(8470), false));
    assert_eq!(
        read(r#"{"duration":-1,"usage":{"seconds":"x","duration":5}}"#),
        (0, None, false)
    );
}
