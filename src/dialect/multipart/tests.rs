//! Forms as clients send them, and forms as nobody should.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dialect::splice::splice;

const TYPE: &str = "multipart/form-data; boundary=xyz";

fn part(name: &str, value: &str) -> String {
    format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn form(parts: &[String]) -> String {
    format!("{}--xyz--\r\n", parts.concat())
}

fn read(body: &str) -> Result<MultipartFacts, MultipartError> {
    inspect(TYPE, body.as_bytes())
}

#[test]
fn model_and_stream_are_read_and_files_skipped() {
    let file = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"name=model.wav\"\r\n\
                Content-Type: audio/wav\r\n\r\n\u{0}name=\"model\"\r\n\r\n--xy\r\n";
    let body = form(&[file.into(), part("model", "whisper-1"), part("stream", "True")]);
    let facts = read(&body).expect("facts");
    assert_eq!(facts.model_name(), Some("whisper-1"));
    assert!(facts.is_stream());
    let edit = facts.name_model("whisper-large").expect("an edit");
    let renamed = splice(&[Bytes::from(body.clone())], vec![edit]).to_bytes();
    assert_eq!(renamed, body.replace("whisper-1", "whisper-large"));
    assert_eq!(facts.name_model("whisper-1"), None);
    assert_eq!(facts.name_model("a\r\n--xyz"), None);
}

#[test]
fn names_and_boundaries_may_be_quoted_or_not() {
    for (content_type, disposition) in [
        ("multipart/form-data;boundary=\"x y\"", "form-data; name=model"),
        (
            "Multipart/Form-Data; charset=utf-8; Boundary=\"x y\"",
            "form-data; filename=\"a\\\"; name=b\"; NAME=\"model\"",
        ),
    ] {
        assert!(is_form_data(content_type));
        let body =
            format!("preamble\r\n--x y  \r\ncontent-disposition: {disposition}\r\n\r\nm\r\n--x y--epilogue");
        let facts = inspect(content_type, body.as_bytes()).expect(content_type);
        assert_eq!(facts.model_name(), Some("m"));
    }
    assert!(!is_form_data("application/json"));
}

#[test]
fn a_form_without_the_parts_says_nothing() {
    for body in [
        form(&[part("other", "")]),
        "--xyz--".to_owned(),
        format!("preamble\r\n{}", form(&[])),
    ] {
        let facts = read(&body).expect("facts");
        assert_eq!((facts.model_name(), facts.is_stream()), (None, false));
        let edit = facts.name_model("m").expect("an edit");
        let named = splice(&[Bytes::from(body)], vec![edit]).to_bytes();
        let named = String::from_utf8(named.to_vec()).unwrap();
        assert_eq!(read(&named).expect("facts").model_name(), Some("m"), "{named}");
    }
}

#[test]
fn two_parts_of_a_name_that_is_read_are_refused() {
    let twice = read(&form(&[part("model", "a"), part("model", "a")])).expect_err("twice");
    assert_eq!(
        (twice.clone(), twice.param()),
        (MultipartError::DuplicatePart("model"), Some("model"))
    );
    let twice = form(&[part("stream", "true"), part("stream", "")]);
    assert_eq!(read(&twice), Err(MultipartError::DuplicatePart("stream")));
    assert!(read(&form(&[part("file", "a"), part("file", "b")])).is_ok());
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    assert_eq!(
        read(&form(&[part("stream", "maybe")])).expect_err("bad").param(),
        Some("stream")
    );
    assert_eq!(
        read(&form(&[part("model", &"m".repeat(513))]))
            .expect_err("bad")
            .param(),
        Some("model")
    );
}

#[test]
fn malformed_forms_are_refused() {
    for body in [
        String::new(),
        "xyz".to_owned(),
        "--xyz".to_owned(),
        "--xyz\r\n".to_owned(),
        part("model", "a"),
        "--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n--xyz--".to_owned(),
        "--xyzz\r\n\r\n\r\n--xyz--".to_owned(),
        "--xyz\r\nnocolon\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data; name=\"model\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data; name=a; name=model\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\nContent-Disposition: form-data; name=a\n\na\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n--xyz\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\na\n--xyz\n\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data; name=a; name*=utf-8''model\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Disposition: form-data;\r\n name=model: x\r\n\r\na\r\n--xyz--".to_owned(),
        "--xyz\r\nContent-Transfer-Encoding: base64\r\n\r\na\r\n--xyz--".to_owned(),
        form(&vec![part("a", "b"); MAX_PARTS]),
    ] {
        assert!(read(&body).is_err(), "{body:.80}");
    }
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"a",
        "multipart/form-data; boundary=a\u{e9}",
        "multipart/form-data; boundary=a; boundary=b",
    ] {
        assert_eq!(
            inspect(content_type, b"--a--"),
            Err(MultipartError::NoBoundary),
            "{content_type}"
        );
    }
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(bytes in prop::collection::vec(prop_oneof![
        Just(b"--xyz".to_vec()), Just(b"\r\n".to_vec()), Just(b"--".to_vec()),
        Just(b"Content-Disposition: form-data; name=\"model\"".to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
    ], 0..16)) {
        let body = bytes.concat();
        if let Ok(facts) = inspect(TYPE, &body)
            && let Some((name, span)) = facts.model
        {
            prop_assert_eq!(name.as_bytes(), &body[span.start..span.end]);
        }
    }
}
