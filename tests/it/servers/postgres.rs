//! A private PostgreSQL from the distribution's packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::free_port;
use super::guarded::Guarded;
use crate::wait::wait_until;

/// A server with its own data directory and port.
pub struct Postgres {
    directory: PathBuf,
    port: u16,
    guard: Option<Guarded>,
    databases: AtomicU32,
}

const RUN: &str = r#"
[ -e "$2/data/PG_VERSION" ] || "$1/initdb" -U postgres -A trust -E UTF8 --locale=C --no-sync -D "$2/data" >>"$2/log" 2>&1 </dev/null
"$1/postgres" -D "$2/data" -p "$3" -k "$2" -h 127.0.0.1 -c fsync=off -c full_page_writes=off -c synchronous_commit=off \
    -c max_connections=200 -c shared_buffers=32MB >>"$2/log" 2>&1 </dev/null &
pid=$!
read -r _
# A server that has just started still ignores the signal: it is sent until it is heeded.
while kill -INT "$pid" 2>/dev/null; do sleep 0.1; done
wait "$pid"
"#;

impl Postgres {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own.
    pub fn start() -> Self {
        // WHY: another process may take a free port before the server does; a new one is tried then.
        (0..5).find_map(|_| Self::try_start()).expect("PostgreSQL starts")
    }

    fn try_start() -> Option<Self> {
        let port = free_port();
        let name = format!("llm-proxy-postgres-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for PostgreSQL");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&directory));
        }
        let mut server = Self {
            directory,
            port,
            guard: None,
            databases: AtomicU32::new(0),
        };
        if server.try_launch() {
            return Some(server);
        }
        let log = std::fs::read_to_string(server.directory.join("log")).unwrap_or_default();
        eprintln!("PostgreSQL does not start: {log}");
        None
    }

    fn try_launch(&mut self) -> bool {
        let programs = programs();
        let directory = self.directory.to_string_lossy().into_owned();
        let port = self.port.to_string();
        let remove = format!("{RUN}\n[ -e \"$2/keep\" ] || rm -rf \"$2\"\n");
        let script = if is_root() {
            // PostgreSQL refuses to run as root. The inner shell runs as postgres, the outer one (root) only removes the directory.
            format!(
                "runuser -u postgres -- sh -c '{}' sh \"$1\" \"$2\" \"$3\"\n[ -e \"$2/keep\" ] || rm -rf \"$2\"\n",
                RUN.replace('\'', "'\\''")
            )
        } else {
            remove
        };
        let mut guard = Guarded::start(&script, &[&programs.to_string_lossy(), &directory, &port]);
        let up =
            wait_until(Duration::from_secs(20), || self.accepts() || guard.has_ended()) && !guard.has_ended();
        self.guard = Some(guard);
        up
    }

    fn accepts(&self) -> bool {
        Command::new(programs().join("pg_isready"))
            .args([
                "-q",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-d",
                "postgres",
            ])
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Makes an empty database; answers its URL.
    pub fn new_database(&self) -> String {
        let name = format!("edge_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        format!(
            "postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable",
            self.port
        )
    }

    /// The name of the database that a URL of [`Self::new_database`] leads to.
    pub fn name_in(url: &str) -> &str {
        let end = url.rsplit('/').next().unwrap_or_default();
        end.split('?').next().unwrap_or_default()
    }

    /// Runs a statement with the distribution's client; answers its bare rows.
    #[track_caller]
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let output = Command::new(programs().join("psql"))
            .args([
                "-X",
                "-A",
                "-t",
                "-q",
                "-U",
                "postgres",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
            ])
            .args(["-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement])
            .output()
            .expect("run psql");
        assert!(
            output.status.success(),
            "{statement}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// All data of a database as text.
    pub fn dump(url: &str) -> String {
        let output = Command::new(programs().join("pg_dump"))
            .args(["--inserts", "-d", url])
            .output()
            .expect("run pg_dump");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops the server; its data stay.
    pub fn stop(&mut self) {
        let keep = self.directory.join("keep");
        std::fs::write(&keep, b"").expect("mark the data as kept");
        self.guard = None;
        std::fs::remove_file(keep).expect("unmark the data");
    }

    /// Starts the server again on the same port.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.try_launch(), "PostgreSQL does not come back");
    }
}

/// The folder of the distribution's programs, the newest version's.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                Some((
                    entry.file_name().to_str()?.parse().ok()?,
                    entry.path().join("bin"),
                ))
            })
            .filter(|(_, bin)| bin.join("initdb").exists())
            .collect();
        versions.sort();
        if let Some((_, bin)) = versions.pop() {
            return bin;
        }
        std::env::var_os("PATH")
            .and_then(|path| std::env::split_paths(&path).find(|folder| folder.join("initdb").exists()))
            .expect("PostgreSQL is not installed: `make deps-test` installs it")
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
