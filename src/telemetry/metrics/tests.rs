use super::*;
use crate::domain::{ManualClock, Timestamp};

fn metrics() -> Arc<Metrics> {
    Metrics::new(ManualClock::at(Timestamp::EPOCH)).unwrap()
}

fn labels(model: &str, status: u16) -> RequestLabels<'_> {
    RequestLabels {
        project: None,
        provider: "openai",
        model,
        status,
    }
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(
        text.lines().any(|found| found == line),
        "`{line}` is not in\n{text}"
    );
}

#[test]
fn a_request_is_counted_under_its_labels() {
    let metrics = metrics();
    let project = ProjectId::random();
    let facts = RequestFacts {
        duration: Duration::from_millis(20),
        time_to_first_byte: Some(Duration::from_millis(7)),
        overhead: Some(Duration::from_micros(40)),
        tokens: TokenCounts {
            prompt: 10,
            completion: 5,
            ..TokenCounts::default()
        },
        cost_nano_usd: 1_500_000_000,
        error: None,
    };
    let labels = RequestLabels {
        project: Some(project),
        ..labels("gpt-x", 200)
    };
    metrics.record_request(labels, &facts);
    metrics.record_request(labels, &facts);
    let text = metrics.prometheus();
    let who = format!("model=\"gpt-x\",project=\"{project}\",provider=\"openai\"");
    assert_line(
        &text,
        &format!("llm_proxy_requests_total{{{who},status=\"200\"}} 2"),
    );
    assert_line(&text, &format!("llm_proxy_cost_usd_total{{{who}}} 3"));
    let tokens = |kind: &str| format!("llm_proxy_tokens_total{{kind=\"{kind}\",{who}}}");
    assert_line(&text, &format!("{} 20", tokens("prompt")));
    assert_line(&text, &format!("{} 10", tokens("completion")));
    assert_line(
        &text,
        "llm_proxy_request_duration_seconds_count{model=\"gpt-x\",provider=\"openai\"} 2",
    );
    assert_line(
        &text,
        "llm_proxy_time_to_first_byte_seconds_bucket{model=\"gpt-x\",provider=\"openai\",le=\"0.01\"} 2",
    );
    assert_line(&text, "llm_proxy_overhead_seconds_bucket{le=\"0.00005\"} 2");
}

#[test]
fn errors_are_counted_by_code() {
    let metrics = metrics();
    for code in DenialCode::ALL {
        let facts = RequestFacts {
            error: Some(*code),
            ..RequestFacts::default()
        };
        metrics.record_request(labels("", code.status()), &facts);
    }
    metrics.record_request(labels("", 500), &RequestFacts::default());
    let text = metrics.prometheus();
    for code in DenialCode::ALL {
        assert_line(
            &text,
            &format!("llm_proxy_errors_total{{code=\"{}\"}} 1", code.as_str()),
        );
    }
    assert_line(&text, "llm_proxy_errors_total{code=\"upstream_status\"} 1");
    assert_eq!(metrics.json()["error_count"], DenialCode::ALL.len() + 1);
}

#[test]
fn labels_are_bounded() {
    let metrics = metrics();
    for number in 0..3000 {
        metrics.record_request(labels(&format!("model-{number}"), 200), &RequestFacts::default());
        metrics.count_attempt(&format!("provider-{number}"), Some(200));
    }
    let text = metrics.prometheus();
    let lines = |prefix: &str| text.lines().filter(|line| line.starts_with(prefix)).count();
    assert_eq!(lines("llm_proxy_requests_total{"), 2001);
    assert_eq!(lines("llm_proxy_upstream_attempts_total{"), 2001);
    assert_line(
        &text,
        "llm_proxy_requests_total{model=\"other\",project=\"other\",provider=\"other\",status=\"200\"} 1000",
    );
    assert_eq!(metrics.json()["request_count"], 3000);
}

#[test]
fn json_and_text_tell_the_same() {
    let clock = ManualClock::at(Timestamp::EPOCH);
    let metrics = Metrics::new(clock.clone()).unwrap();
    clock.advance(Duration::from_millis(1500));
    metrics.count_cache(CacheEvent::Hit);
    metrics.count_cache(CacheEvent::Miss);
    metrics.count_cache(CacheEvent::Miss);
    metrics.count_cache(CacheEvent::Store);
    assert_eq!(
        metrics.json(),
        serde_json::json!({
            "uptime_seconds": 1.5, "request_count": 0, "error_count": 0,
            "cache_hits": 1, "cache_misses": 2, "cache_bypass": 0, "cache_stores": 1,
        })
    );
    let text = metrics.prometheus();
    assert_line(&text, "llm_proxy_uptime_seconds 1.5");
    assert_line(&text, "llm_proxy_cache_misses_total 2");
    assert_line(
        &text,
        &format!(
            "llm_proxy_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
    );
}

#[test]
fn what_runs_is_counted_until_it_ends() {
    let metrics = metrics();
    let stream = metrics.stream_began();
    let request = metrics.request_began();
    assert_line(&metrics.prometheus(), "llm_proxy_active_streams 1");
    drop((stream, request));
    assert_line(&metrics.prometheus(), "llm_proxy_active_streams 0");
    assert_line(&metrics.prometheus(), "llm_proxy_active_requests 0");
}

#[test]
fn connected_numbers_are_read_when_metrics_are() {
    let metrics = metrics();
    let count = Arc::new(AtomicU64::new(1));
    let read = Arc::clone(&count);
    metrics.connect(Source::HeadsTooSlow, || 4);
    metrics.connect(Source::HeadsMalformed, move || read.load(Ordering::Relaxed));
    count.store(7, Ordering::Relaxed);
    let text = metrics.prometheus();
    assert_line(
        &text,
        "llm_proxy_heads_refused_total{code=\"malformed_request\"} 7",
    );
    assert_line(&text, "llm_proxy_heads_refused_total{code=\"header_timeout\"} 4");
    assert_eq!(
        text.matches("# TYPE llm_proxy_heads_refused_total counter")
            .count(),
        1
    );
}

#[test]
fn limits_reloads_and_losses_are_counted() {
    let metrics = metrics();
    metrics.count_rate_limited(LimitScope::Ip);
    metrics.count_config_reload(ReloadResult::Refused);
    metrics.count_store_error();
    metrics.count_event_dropped();
    metrics.count_attempt("openai", None);
    let text = metrics.prometheus();
    assert_line(&text, "llm_proxy_rate_limited_total{scope=\"ip\"} 1");
    assert_line(&text, "llm_proxy_rate_limited_total{scope=\"global\"} 0");
    assert_line(&text, "llm_proxy_config_reloads_total{result=\"refused\"} 1");
    assert_line(&text, "llm_proxy_store_errors_total 1");
    assert_line(&text, "llm_proxy_events_dropped_total 1");
    assert_line(
        &text,
        "llm_proxy_upstream_attempts_total{provider=\"openai\",status=\"none\"} 1",
    );
}
