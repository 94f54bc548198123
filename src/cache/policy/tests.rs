use super::*;
use crate::domain::Timestamp;

fn settings() -> CacheSettings {
    CacheSettings::default()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn lookup(method: &str, cache_control: &str) -> Lookup {
    let headers = headers(&[("cache-control", cache_control)]);
    match Plan::of(&settings(), method, &headers, RuleFacts::default()) {
        Plan::Lookup(lookup) => lookup,
        Plan::Bypass(bypass) => panic!("{bypass:?}"),
    }
}

fn answer(headers: &HeaderMap) -> AnswerFacts<'_> {
    AnswerFacts {
        status: 200,
        headers,
        framing: Framing::Length(10),
        encoding_is_ours: true,
        now: Timestamp::parse_rfc3339("2026-01-31T12:00:00Z").unwrap(),
    }
}

/// `seconds`, `seconds forced`, or why not.
fn verdict(request: &str, fields: &[(&'static str, &str)]) -> String {
    let headers = headers(fields);
    match storable(&lookup("GET", request), &settings(), &answer(&headers)) {
        Ok(storable) => format!(
            "{}{}",
            storable.fresh_for.as_secs(),
            match storable.forced {
                Some(Wish::Request) => " forced",
                Some(Wish::Rule) => " rule",
                None => "",
            }
        ),
        Err(reason) => reason.as_str().to_owned(),
    }
}

#[test]
fn which_requests_are_looked_up() {
    let plan = |method: &str, control: &str| {
        let headers = headers(&[("cache-control", control)]);
        match Plan::of(&settings(), method, &headers, RuleFacts::default()) {
            Plan::Bypass(Bypass::Off) => "off",
            Plan::Bypass(Bypass::Method) => "method",
            Plan::Bypass(Bypass::NoStore) => "no-store",
            Plan::Lookup(lookup) if lookup.refresh => "refresh",
            Plan::Lookup(lookup) if lookup.wish.is_some() => "forced",
            Plan::Lookup(lookup) if !lookup.may_store => "read only",
            Plan::Lookup(_) => "lookup",
        }
    };
    let table = [
        ("GET", "", "lookup"),
        ("HEAD", "", "read only"),
        ("POST", "", "method"),
        ("POST", "max-age=60", "method"),
        ("POST", "public", "forced"),
        ("POST", "Public, Max-Age=60", "forced"),
        ("PUT", "public", "method"),
        ("DELETE", "", "method"),
        ("GET", "no-store", "no-store"),
        ("POST", "public, no-store", "no-store"),
        ("GET", "no-cache", "refresh"),
        ("GET", "max-age=0", "refresh"),
        ("POST", "public, no-cache", "refresh"),
        ("POST", "public, max-age=0", "forced"),
    ];
    for (method, control, expected) in table {
        assert_eq!(plan(method, control), expected, "{method} {control}");
    }
    let mut off = settings();
    off.enabled = false;
    assert_eq!(
        Plan::of(&off, "GET", &HeaderMap::new(), RuleFacts::default()),
        Plan::Bypass(Bypass::Off)
    );
}

#[test]
fn what_a_shared_cache_may_keep_for_a_request_with_a_credential() {
    let table = [
        ("", "not-shared"),
        ("max-age=60", "not-shared"),
        ("public, max-age=60", "60"),
        ("public", "300"),
        ("s-maxage=60", "60"),
        ("s-maxage=60, max-age=10", "60"),
        ("max-age=10, s-maxage=60", "60"),
        ("must-revalidate, max-age=60", "60"),
        ("must-revalidate", "not-fresh"),
        ("public, max-age=0", "not-fresh"),
        ("public, s-maxage=0, max-age=60", "not-fresh"),
        ("public, no-cache, max-age=60", "not-fresh"),
        ("public, no-store", "forbidden"),
        ("private, s-maxage=60", "forbidden"),
        ("private=\"x, y\", s-maxage=60", "forbidden"),
        ("PUBLIC, MAX-AGE=\"60\"", "60"),
        ("public, max-age=nonsense", "not-fresh"),
        ("public, max-age=-5", "not-fresh"),
        ("public, max-age=60, max-age=10", "10"),
        ("public, max-age=99999999999999999999999", "2147483648"),
        ("stale-while-revalidate=5, public, max-age=60", "60"),
        ("x=\"public\"", "not-shared"),
    ];
    for (control, expected) in table {
        assert_eq!(verdict("", &[("cache-control", control)]), expected, "{control}");
    }
}

#[test]
fn a_request_that_says_public_forces_storing() {
    let table = [
        ("public", "", "300 forced"),
        ("public, max-age=60", "", "60 forced"),
        ("public, s-maxage=30, max-age=60", "", "30 forced"),
        ("public, max-age=60", "no-cache", "60 forced"),
        ("public, max-age=60", "max-age=5", "60 forced"),
        ("public, max-age=60", "public, max-age=0", "60 forced"),
        ("public", "max-age=5", "5 forced"),
        ("public", "no-cache", "300 forced"),
        ("public, max-age=60", "public, max-age=20", "20"),
        ("public, max-age=60", "public", "60"),
        ("public, max-age=0", "", "not-fresh"),
        ("public, max-age=60", "no-store", "forbidden"),
        ("public, max-age=60", "private", "forbidden"),
    ];
    for (request, control, expected) in table {
        assert_eq!(
            verdict(request, &[("cache-control", control)]),
            expected,
            "{request} / {control}"
        );
    }
}

#[test]
fn age_and_expires_count() {
    let public = ("cache-control", "public, max-age=60");
    assert_eq!(verdict("", &[public, ("age", "20")]), "40");
    assert_eq!(verdict("", &[public, ("age", "60")]), "not-fresh");
    assert_eq!(verdict("", &[public, ("age", "nonsense")]), "60");
    assert_eq!(verdict("public, max-age=9", &[("age", "20")]), "9 forced");
    let expires = ("expires", "Sat, 31 Jan 2026 12:10:00 GMT");
    let only_public = ("cache-control", "public");
    assert_eq!(verdict("", &[only_public, expires]), "600");
    assert_eq!(
        verdict(
            "",
            &[only_public, expires, ("date", "Sat, 31 Jan 2026 12:09:00 GMT")]
        ),
        "60"
    );
    assert_eq!(verdict("", &[only_public, ("expires", "0")]), "not-fresh");
    assert_eq!(verdict("", &[public, expires]), "60");
    assert_eq!(verdict("", &[expires]), "not-shared");
}

#[test]
fn what_varies_by_anything_or_is_encoded_is_not_stored() {
    let public = ("cache-control", "public, max-age=60");
    assert_eq!(verdict("", &[public, ("vary", "*")]), "forbidden");
    assert_eq!(verdict("public", &[("vary", "Accept, *")]), "forbidden");
    assert_eq!(verdict("", &[public, ("vary", "Origin")]), "60");
    assert_eq!(verdict("public", &[("vary", "Accept-Language")]), "300 forced");
    assert_eq!(verdict("", &[public, ("content-encoding", "identity")]), "60");
    let gzip = ("content-encoding", "gzip");
    let by_encoding = ("vary", "accept-encoding");
    assert_eq!(verdict("", &[public, gzip]), "encoded");
    assert_eq!(
        verdict("", &[public, gzip, by_encoding]),
        "encoded",
        "we asked for none"
    );
    let stream = ("content-type", "text/event-stream");
    for (fields, expected) in [
        (headers(&[public, gzip, by_encoding]), Ok(60)),
        (headers(&[public, gzip]), Err(NotStored::Encoded)),
        (
            headers(&[public, gzip, by_encoding, stream]),
            Err(NotStored::Encoded),
        ),
    ] {
        let theirs = AnswerFacts {
            encoding_is_ours: false,
            ..answer(&fields)
        };
        let verdict = storable(&lookup("GET", ""), &settings(), &theirs);
        assert_eq!(verdict.map(|kept| kept.fresh_for.as_secs()), expected);
    }
}

#[test]
fn what_is_not_fresh_is_kept_where_it_can_be_asked_about() {
    let etag = ("etag", "\"v1\"");
    let modified = ("last-modified", "Sat, 31 Jan 2026 12:00:00 GMT");
    for control in [
        "public, no-cache",
        "public, max-age=0",
        "must-revalidate",
        "public, no-cache, max-age=9",
    ] {
        let control = ("cache-control", control);
        assert_eq!(verdict("", &[control]), "not-fresh");
        assert_eq!(verdict("", &[control, etag]), "0");
        assert_eq!(verdict("", &[control, modified]), "0");
    }
    assert_eq!(verdict("", &[("cache-control", "no-cache"), etag]), "not-shared");
    assert_eq!(
        verdict("public, max-age=60", &[("cache-control", "no-cache"), etag]),
        "60 forced"
    );
    let fields = headers(&[("cache-control", "public, no-cache"), etag]);
    assert_eq!(
        storable(
            &lookup("POST", "public, max-age=0"),
            &settings(),
            &answer(&fields)
        ),
        Err(NotStored::NotFresh),
        "a POST is not asked about"
    );
}

#[test]
fn the_operators_rules_ask_for_answers_to_be_kept() {
    let rule = |endpoint: Option<&str>, model: Option<&str>, temperature_zero, ttl| CacheRule {
        endpoint: endpoint.map(crate::domain::EndpointPattern::new),
        model: model.map(crate::domain::Glob::new),
        temperature_zero,
        ttl,
        scope: CacheScope::Project,
    };
    let mut settings = settings();
    settings.rules = vec![
        CacheRule {
            scope: CacheScope::Token,
            ..rule(
                Some("/v1/embeddings"),
                Some("text-*"),
                false,
                Some(Duration::from_hours(1)),
            )
        },
        rule(Some("/v1/chat/completions"), None, true, None),
    ];
    let plan = |method: &str, path, model, json: &str| {
        let asked = RuleFacts {
            path,
            model,
            json: json.as_bytes(),
        };
        match Plan::of(&settings, method, &HeaderMap::new(), asked) {
            Plan::Lookup(lookup) => Some(lookup),
            Plan::Bypass(_) => None,
        }
    };
    let embeddings = plan("POST", "/v1/embeddings", Some("text-3"), "{}").unwrap();
    assert_eq!(
        (embeddings.wish, embeddings.of_one_token),
        (Some(Wish::Rule), true)
    );
    let fields = headers(&[("cache-control", "public, max-age=5")]);
    let kept = storable(&embeddings, &settings, &answer(&fields)).unwrap();
    assert_eq!(
        (kept.fresh_for.as_secs(), kept.forced),
        (3600, Some(Wish::Rule)),
        "the rule's time stands above the answer's"
    );
    for forbidden in ["no-store", "private"] {
        let fields = headers(&[("cache-control", forbidden)]);
        assert_eq!(
            storable(&embeddings, &settings, &answer(&fields)),
            Err(NotStored::Forbidden)
        );
    }
    assert_eq!(plan("POST", "/v1/embeddings", Some("other"), "{}"), None);
    assert_eq!(plan("POST", "/v1/embeddings", None, "{}"), None);
    let chat = |json| plan("POST", "/v1/chat/completions", Some("m"), json);
    for zero in [
        r#"{"temperature":0}"#,
        r#"{"a":[1],"temperature":0.0}"#,
        r#"{"temperature":0e5}"#,
    ] {
        let lookup = chat(zero).unwrap();
        assert!(!lookup.of_one_token);
        let kept = storable(&lookup, &settings, &answer(&HeaderMap::new())).unwrap();
        assert_eq!(kept.fresh_for.as_secs(), 300);
    }
    for other in [
        "{}",
        r#"{"temperature":0.1}"#,
        r#"{"temperature":null}"#,
        r#"{"temperature":"0"}"#,
        "",
    ] {
        assert_eq!(chat(other), None, "{other}");
    }
    assert_eq!(plan("GET", "/v1/files", None, "").unwrap().wish, None);
    assert_eq!(plan("DELETE", "/v1/embeddings", Some("text-3"), ""), None);
}

#[test]
fn only_complete_successes_of_a_known_end_and_size_are_stored() {
    let fields = headers(&[("cache-control", "public, max-age=60")]);
    let check = |change: &dyn Fn(&mut AnswerFacts<'_>)| {
        let mut facts = answer(&fields);
        change(&mut facts);
        storable(&lookup("GET", ""), &settings(), &facts).map_or_else(NotStored::as_str, |_| "ok")
    };
    for (status, expected) in [
        (200, "ok"),
        (201, "ok"),
        (204, "ok"),
        (206, "status"),
        (301, "status"),
        (304, "status"),
        (404, "status"),
        (500, "status"),
    ] {
        assert_eq!(check(&|facts| facts.status = status), expected, "{status}");
    }
    assert_eq!(check(&|facts| facts.framing = Framing::Marked), "ok");
    assert_eq!(check(&|facts| facts.framing = Framing::Close), "no-end");
    assert_eq!(check(&|facts| facts.framing = Framing::Length(1 << 20)), "ok");
    assert_eq!(
        check(&|facts| facts.framing = Framing::Length((1 << 20) + 1)),
        "size"
    );
    assert_eq!(
        storable(&lookup("HEAD", ""), &settings(), &answer(&fields)),
        Err(NotStored::Method)
    );
}

#[test]
fn streams_are_stored_if_the_configuration_says_so() {
    let fields = headers(&[
        ("cache-control", "public, max-age=60"),
        ("content-type", "Text/Event-Stream; charset=utf-8"),
    ]);
    let mut settings = settings();
    settings.stream_responses = true;
    let stored = storable(&lookup("GET", ""), &settings, &answer(&fields)).unwrap();
    assert!(stored.is_stream);
    settings.stream_responses = false;
    assert_eq!(
        storable(&lookup("GET", ""), &settings, &answer(&fields)),
        Err(NotStored::Stream)
    );
}

#[test]
fn a_request_may_want_something_younger_than_what_is_stored() {
    let accepts = |control: &str, age: u64, left: u64| {
        lookup("GET", control).accepts(Duration::from_secs(age), Duration::from_secs(left))
    };
    assert!(accepts("", 1000, 1));
    assert!(accepts("max-age=10", 10, 1));
    assert!(!accepts("max-age=10", 11, 1));
    assert!(accepts("min-fresh=5", 1, 5));
    assert!(!accepts("min-fresh=5", 1, 4));
    assert!(!accepts("no-cache", 0, 100));
    assert!(
        accepts("public, max-age=10", 11, 1),
        "the number is the time to keep"
    );
}

#[test]
fn only_if_cached_is_504_whether_looked_up_or_not() {
    let only = headers(&[("cache-control", "only-if-cached")]);
    assert!(lookup("GET", "only-if-cached").only_if_cached);
    let denial = Plan::only_if_cached_denial(&only).unwrap();
    assert_eq!(denial.code.as_str(), "not_cached");
    assert_eq!(Plan::only_if_cached_denial(&HeaderMap::new()), None);
}
