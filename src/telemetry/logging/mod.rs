//! The log: levels, format and output, all changeable while the process runs.

mod filter;
pub(super) mod line;
pub(super) mod sink;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use log::{LevelFilter, Log, Metadata, Record};

use crate::domain::Clock;

use super::access_log::AccessLog;
use super::metrics::{Metrics, Source};
use line::{JsonLine, TextLine, write_record};
use sink::Sink;

/// Lines that Pingora may write in a second: clients can provoke its errors.
const PINGORA_LINES_PER_SECOND: u64 = 10;

/// Why the log cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Its file cannot be opened.
    #[error("log file `{}` cannot be opened: {source}; name a file in a folder that exists and may be written", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its thread cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// Another logger is in use.
    #[error("another logger is installed already")]
    Installed,
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is written, how and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Least level of our own lines; those of dependencies stop at info.
    pub level: LevelFilter,
    /// How lines look.
    pub format: LogFormat,
    /// Whether each request writes a line.
    pub access_log: bool,
    /// The file; `None` is standard error.
    pub file: Option<PathBuf>,
    /// Size at which the file is rotated.
    pub max_file_bytes: u64,
    /// Rotated files kept.
    pub max_backups: u32,
    /// `RUST_LOG`: refines the levels of our own targets.
    pub directives: Option<String>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LevelFilter::Info,
            format: LogFormat::Json,
            access_log: true,
            file: None,
            max_file_bytes: 100_000_000,
            max_backups: 5,
            directives: None,
        }
    }
}

/// The log of the process.
pub struct Logging {
    sink: Arc<Sink>,
    switch: Arc<Switch>,
    clock: Arc<dyn Clock>,
}

impl Logging {
    /// Opens the output and starts the thread that writes.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not be started.
    pub fn start(settings: &LogSettings, clock: Arc<dyn Clock>) -> Result<Self, LogError> {
        let sink = Sink::start(settings)?;
        let (logger, ignored) = build(settings, &sink, &clock);
        let switch = Arc::new(Switch {
            logger: ArcSwap::from_pointee(logger),
            clock: Arc::clone(&clock),
            pingora_second: AtomicU64::new(0),
            pingora_lines: AtomicU64::new(0),
        });
        switch.complain(&ignored);
        Ok(Self { sink, switch, clock })
    }

    /// Makes this the logger of the `log` crate.
    ///
    /// # Errors
    /// There is one already.
    pub fn install(&self) -> Result<(), LogError> {
        log::set_boxed_logger(Box::new(Installed(Arc::clone(&self.switch))))
            .map_err(|_| LogError::Installed)?;
        log::set_max_level(self.max_level());
        Ok(())
    }

    /// Applies new settings. A file that cannot be opened leaves the old output in use and says so.
    pub fn apply(&self, settings: &LogSettings) {
        self.sink.configure(settings);
        let (logger, ignored) = build(settings, &self.sink, &self.clock);
        self.switch.logger.store(Arc::new(logger));
        log::set_max_level(self.max_level());
        self.switch.complain(&ignored);
    }

    /// Where access lines go.
    pub fn access_log(&self) -> AccessLog {
        AccessLog::new(Arc::clone(&self.sink))
    }

    /// Ordinary lines that were never written.
    pub fn lines_lost(&self) -> u64 {
        self.sink.lines_lost()
    }

    /// Access lines that were never written.
    pub fn access_lines_lost(&self) -> u64 {
        self.sink.access_lines_lost()
    }

    /// Lets `metrics` read what was lost.
    pub fn report_to(&self, metrics: &Metrics) {
        let (access, lines) = (Arc::clone(&self.sink), Arc::clone(&self.sink));
        metrics.connect(Source::AccessLinesDropped, move || access.access_lines_lost());
        metrics.connect(Source::LogLinesDropped, move || lines.lines_lost());
    }

    /// Waits until all lines so far are written; false when that took longer than `timeout`. Blocks.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.sink.flush(timeout)
    }

    fn max_level(&self) -> LevelFilter {
        self.switch.logger.load().filter()
    }
}

/// The logger for `settings`, and the directives it could not use.
fn build(
    settings: &LogSettings,
    sink: &Arc<Sink>,
    clock: &Arc<dyn Clock>,
) -> (env_logger::Logger, Vec<String>) {
    let (mut builder, ignored) = filter::builder(settings.level, settings.directives.as_deref());
    let (format, clock) = (settings.format, Arc::clone(clock));
    builder.format(move |buffer, record| {
        let (at, level, target) = (clock.now(), record.level(), record.target());
        match format {
            LogFormat::Json => {
                write_record(JsonLine::begin(buffer, at, level, target, record.args()), record);
            }
            LogFormat::Text => {
                write_record(TextLine::begin(buffer, at, level, target, record.args()), record);
            }
        }
        Ok(())
    });
    builder.target(env_logger::Target::Pipe(Box::new(Lines(Arc::clone(sink)))));
    (builder.build(), ignored)
}

/// Takes the finished lines of `env_logger`: one write each.
struct Lines(Arc<Sink>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut kept = line[..line.len().min(sink::LINE_BYTES)].to_vec();
        if kept.len() < line.len() {
            kept.extend_from_slice("…\n".as_bytes());
        }
        self.0.offer_line(kept);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The logger in use, exchangeable.
struct Switch {
    logger: ArcSwap<env_logger::Logger>,
    clock: Arc<dyn Clock>,
    /// The second that `pingora_lines` counts.
    pingora_second: AtomicU64,
    pingora_lines: AtomicU64,
}

impl Switch {
    fn complain(&self, ignored: &[String]) {
        for directive in ignored {
            self.log(
                &Record::builder()
                    .level(log::Level::Warn)
                    .target(module_path!())
                    .args(format_args!(
                        "`{directive}` in RUST_LOG is ignored: it is no `level`, `llm_proxy` or `llm_proxy::part=level`"
                    ))
                    .build(),
            );
        }
    }

    fn admits(&self, target: &str) -> bool {
        if !target.starts_with("pingora") {
            return true;
        }
        let second = self.clock.monotonic().as_secs();
        if self.pingora_second.swap(second, Ordering::Relaxed) != second {
            self.pingora_lines.store(0, Ordering::Relaxed);
        }
        self.pingora_lines.fetch_add(1, Ordering::Relaxed) < PINGORA_LINES_PER_SECOND
    }

    fn log(&self, record: &Record<'_>) {
        let logger = self.logger.load();
        if logger.matches(record) && self.admits(record.target()) {
            logger.log(record);
        }
    }
}

struct Installed(Arc<Switch>);

impl Log for Installed {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.logger.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.log(record);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests;
