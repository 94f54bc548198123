use super::*;
use crate::domain::{DenialCode, ManualClock, ProjectId, RecordId, Timestamp};
use crate::telemetry::{AccessLine, Outcome};

use log::Level;
use serde_json::Value;
use tempfile::TempDir;

/// Long enough on any machine; nothing waits for it.
const GENEROUS: Duration = Duration::from_secs(20);

struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    settings: LogSettings,
    logging: Logging,
}

impl Bench {
    fn start(change: impl FnOnce(&mut LogSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::parse_rfc3339("2026-01-31T12:00:00.25Z").unwrap());
        let mut settings = LogSettings {
            file: Some(folder.path().join("log")),
            ..LogSettings::default()
        };
        change(&mut settings);
        let logging = Logging::start(&settings, clock.clone()).unwrap();
        Self {
            folder,
            clock,
            settings,
            logging,
        }
    }

    fn log(&self, level: Level, target: &str, message: &str) {
        self.logging.switch.log(
            &Record::builder()
                .level(level)
                .target(target)
                .args(format_args!("{message}"))
                .build(),
        );
    }

    fn text(&self) -> String {
        assert!(self.logging.flush(GENEROUS));
        std::fs::read_to_string(self.settings.file.as_ref().unwrap()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn access_line() -> AccessLine {
    AccessLine {
        at: Timestamp::EPOCH,
        record_id: RecordId::new(Timestamp::EPOCH),
        request_id: "mine".into(),
        token_id: None,
        project_id: Some(ProjectId::from_bytes([7; 16])),
        client: Some("192.0.2.1".parse().unwrap()),
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        model: Some("gpt \"x\"\n".into()),
        served_model: None,
        provider: Some("openai".into()),
        status: 429,
        error: Some(DenialCode::RateLimitExceeded),
        bytes_in: 12,
        bytes_out: 34,
        duration: Duration::from_micros(1500),
        time_to_first_byte: None,
        used: None,
        attempts: 1,
        waited: std::time::Duration::ZERO,
        failed_attempts: None,
        cache: Some("miss"),
        outcome: Outcome::Complete,
    }
}

#[test]
fn a_record_is_a_json_object_with_its_key_values() {
    let bench = Bench::start(|_| ());
    let pairs = [
        ("provider", log::kv::Value::from("a \"b\"")),
        ("status", log::kv::Value::from(502_u16)),
        ("delta", log::kv::Value::from(-1)),
        ("ratio", log::kv::Value::from(0.5)),
        ("reused", log::kv::Value::from(true)),
        ("level", log::kv::Value::from("mine")),
    ];
    bench.logging.switch.log(
        &Record::builder()
            .level(Level::Warn)
            .target("llm_proxy::upstream")
            .args(format_args!("line\nwith \u{1b}[31mcolour"))
            .key_values(&pairs.as_slice())
            .build(),
    );
    assert_eq!(
        bench.lines(),
        [serde_json::json!({
            "ts": "2026-01-31T12:00:00.25Z", "level": "warn", "target": "llm_proxy::upstream",
            "msg": "line\nwith \u{1b}[31mcolour", "provider": "a \"b\"", "status": 502, "delta": -1,
            "ratio": 0.5, "reused": true, "level_": "mine",
        })]
    );
}

#[test]
fn text_lines_cannot_be_forged() {
    let bench = Bench::start(|settings| settings.format = LogFormat::Text);
    let pairs = [("path", "/a b\n"), ("name", "x")];
    bench.logging.switch.log(
        &Record::builder()
            .level(Level::Info)
            .target("llm_proxy")
            .args(format_args!("one\nERROR two \u{1b}[31m"))
            .key_values(&pairs.as_slice())
            .build(),
    );
    assert_eq!(
        bench.text(),
        "2026-01-31T12:00:00.25Z INFO  llm_proxy one\\nERROR two \\u{1b}[31m path=\"/a b\\n\" name=x\n"
    );
}

#[test]
fn an_access_line_tells_of_its_request() {
    let bench = Bench::start(|_| ());
    let line = access_line();
    let record_id = line.record_id.to_string();
    bench.logging.access_log().write(line);
    assert_eq!(
        bench.lines(),
        [serde_json::json!({
            "ts": "1970-01-01T00:00:00Z", "level": "info", "target": "llm_proxy::access", "msg": "request",
            "record_id": record_id, "request_id": "mine", "project_id": "07070707-0707-0707-0707-070707070707",
            "client": "192.0.2.1", "method": "POST", "path": "/v1/chat/completions", "status": 429,
            "code": "rate_limit_exceeded", "provider": "openai", "model": "gpt \"x\"\n", "attempts": 1,
            "cache": "miss", "bytes_in": 12, "bytes_out": 34, "duration_ms": 1.5, "outcome": "complete",
        })]
    );
}

#[test]
fn access_lines_can_be_turned_off_while_running() {
    let mut bench = Bench::start(|_| ());
    let access_log = bench.logging.access_log();
    bench.settings.access_log = false;
    bench.logging.apply(&bench.settings);
    assert!(!access_log.is_on());
    access_log.write(access_line());
    assert_eq!(bench.text(), "");
}

#[test]
fn level_and_format_change_while_running() {
    let mut bench = Bench::start(|_| ());
    bench.log(Level::Debug, "llm_proxy", "unseen");
    bench.settings.level = LevelFilter::Debug;
    bench.settings.format = LogFormat::Text;
    bench.logging.apply(&bench.settings);
    bench.log(Level::Debug, "llm_proxy", "seen");
    bench.log(Level::Debug, "hyper::client", "a whole head");
    assert_eq!(bench.text(), "2026-01-31T12:00:00.25Z DEBUG llm_proxy seen\n");
}

#[test]
fn the_file_changes_while_running_and_a_bad_one_leaves_the_old() {
    let mut bench = Bench::start(|_| ());
    bench.log(Level::Info, "llm_proxy", "first");
    assert_eq!(bench.lines().len(), 1);
    let old = bench.settings.file.clone();
    bench.settings.file = Some(bench.folder.path().join("other"));
    bench.logging.apply(&bench.settings);
    bench.log(Level::Info, "llm_proxy", "second");
    assert!(bench.text().contains("second"));

    bench.settings.file = Some(bench.folder.path().join("missing/log"));
    bench.logging.apply(&bench.settings);
    bench.log(Level::Info, "llm_proxy", "third");
    bench.settings.file = Some(bench.folder.path().join("other"));
    assert!(bench.text().contains("third"));
    assert!(!std::fs::read_to_string(old.unwrap()).unwrap().contains("second"));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing/log");
    let settings = LogSettings {
        file: Some(file.clone()),
        ..LogSettings::default()
    };
    let error = Logging::start(&settings, ManualClock::at(Timestamp::EPOCH))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn a_full_file_is_rotated_and_the_oldest_goes() {
    let bench = Bench::start(|settings| {
        settings.max_file_bytes = 400;
        settings.max_backups = 2;
    });
    for number in 0..20 {
        bench.log(Level::Info, "llm_proxy", &format!("line {number:03}"));
        assert!(bench.logging.flush(GENEROUS));
    }
    let mut names: Vec<String> = std::fs::read_dir(bench.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "log.1", "log.2"]);
    assert!(bench.text().contains("line 019"));
    for name in names {
        assert!(std::fs::metadata(bench.folder.path().join(name)).unwrap().len() <= 400);
    }
}

#[test]
fn pingora_cannot_flood_the_log() {
    let bench = Bench::start(|_| ());
    for _ in 0..50 {
        bench.log(Level::Error, "pingora_core::protocols", "a client did it");
    }
    assert_eq!(bench.lines().len(), 10);
    bench.clock.advance(Duration::from_secs(1));
    bench.log(Level::Error, "pingora_core::protocols", "a client did it");
    bench.log(Level::Error, "llm_proxy", "ours");
    assert_eq!(bench.lines().len(), 12);
}

#[test]
fn an_unusable_directive_is_reported() {
    let bench = Bench::start(|settings| settings.directives = Some("hyper=trace".to_owned()));
    assert!(bench.text().contains("`hyper=trace` in RUST_LOG is ignored"));
}

#[test]
fn an_endless_line_is_cut() {
    let bench = Bench::start(|settings| settings.format = LogFormat::Text);
    bench.log(Level::Info, "llm_proxy", &"x".repeat(200_000));
    let text = bench.text();
    assert_eq!(text.len(), sink::LINE_BYTES + "…\n".len());
}

#[test]
fn a_full_queue_drops_lines_and_counts_them() {
    // a pipe that nobody reads blocks the writing thread
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let settings = LogSettings {
        file: Some(pipe),
        max_file_bytes: u64::MAX,
        ..LogSettings::default()
    };
    let logging = Logging::start(&settings, ManualClock::at(Timestamp::EPOCH)).unwrap();
    let access_log = logging.access_log();
    for _ in 0..20_000 {
        access_log.write(access_line());
        logging.switch.log(
            &Record::builder()
                .level(Level::Info)
                .target("llm_proxy")
                .args(format_args!("x"))
                .build(),
        );
    }
    assert!(logging.access_lines_lost() > 0);
    assert!(logging.lines_lost() > 0);
    let metrics = Metrics::new(ManualClock::at(Timestamp::EPOCH)).unwrap();
    logging.report_to(&metrics);
    let lost = format!(
        "llm_proxy_log_lines_dropped_total{{kind=\"access\"}} {}",
        logging.access_lines_lost()
    );
    assert!(metrics.prometheus().contains(&lost));
    assert!(!logging.flush(Duration::from_millis(10)));
    drop(reader);
}
