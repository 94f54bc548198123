//! The real program under test: started on free ports, talked to by people, stopped in every way.

mod people;
mod yaml;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use people::{Admin, Project, TokenUser, text};
pub use yaml::{NULL, merge, to_yaml};

use crate::http::Client;
use crate::provider::Provider;
use crate::servers::{Postgres, spawn_bound_to_us};
use crate::wait::{wait_for, wait_until};

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-proxy");
/// The operator's bearer.
pub const MANAGEMENT_TOKEN: &str = "management-bearer-of-the-bench-7f3a91";
/// The configuration's key for the provider `openai`.
pub const OPENAI_KEY: &str = "sk-provider-openai-5d0c2b7e9a41f683";
/// The configuration's key for the provider `anthropic`.
pub const ANTHROPIC_KEY: &str = "sk-ant-provider-8e6f1a0b4c9d7352";

/// Where the program keeps its data.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file below the edge's own folder.
    Sqlite,
    /// A fresh database of the shared PostgreSQL.
    Postgres,
    /// A database that the test chose.
    Url(String),
}

/// What will be started.
pub struct Plan {
    config: Value,
    raw: Option<String>,
    environment: Vec<(String, String)>,
    /// Kept so that it answers as long as the edge may ask.
    provider: Option<Provider>,
}

/// A running program with its folder.
pub struct TestEdge {
    /// The provider listener.
    pub proxy: SocketAddr,
    /// The sidecar listener.
    pub management: SocketAddr,
    child: Option<Child>,
    plan: Plan,
    folder: PathBuf,
    _folder_owner: TempDir,
    names: AtomicU32,
    /// From exec to the listening file.
    pub started_in: Duration,
}

impl TestEdge {
    /// A plan: SQLite, both provider names at the fake.
    pub fn plan(provider: &Provider) -> Plan {
        let mut plan = Plan::new(json!({
            "server": {"listen": "127.0.0.1:0"},
            "management": {"listen": "127.0.0.1:0", "token": MANAGEMENT_TOKEN},
            "providers": {
                "openai": {"base_url": provider.url(), "api_key": OPENAI_KEY},
                "anthropic": {"base_url": provider.url(), "api_key": ANTHROPIC_KEY},
            },
            "logging": {"level": "debug"},
        }));
        plan.provider = Some(provider.clone());
        plan
    }

    /// The usual edge on SQLite.
    #[track_caller]
    pub fn start(provider: &Provider) -> Self {
        Self::plan(provider).start()
    }

    /// Nobody in particular, at the proxy listener.
    pub fn anonymous(&self) -> Client {
        Client::new(self.proxy)
    }

    /// Nobody in particular, at the sidecar.
    pub fn sidecar(&self) -> Client {
        Client::new(self.management)
    }

    /// The operator.
    pub fn admin(&self) -> Admin {
        Admin::new(&self.sidecar(), MANAGEMENT_TOKEN)
    }

    /// The one usage record of a token, once it is there.
    #[track_caller]
    pub fn record_of(&self, user: &TokenUser) -> Value {
        let mut found = Value::Null;
        let path = format!("/manage/usage/records?token_id={}", user.id);
        let there = wait_until(Duration::from_secs(20), || {
            found = self.admin().get(&path).expect(200).json();
            found.as_array().is_some_and(|rows| rows.len() == 1)
        });
        assert!(there, "{found:#?}");
        found[0].take()
    }

    /// A new project with a key of its own for the default provider.
    #[track_caller]
    pub fn project(&self, mut fields: Value) -> Project {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        if fields.get("name").is_none() {
            fields["name"] = json!(format!("project {number}"));
        }
        self.admin().create_project(fields)
    }

    /// Somebody with a token of a new project, with these fields.
    #[track_caller]
    pub fn token(&self, fields: Value) -> TokenUser {
        let project = self.project(json!({}));
        self.token_of(&project, fields)
    }

    /// Somebody with a token of this project.
    #[track_caller]
    pub fn token_of(&self, project: &Project, mut fields: Value) -> TokenUser {
        fields["project_id"] = json!(project.id);
        let token = self.admin().create_token(fields);
        TokenUser::new(
            &self.anonymous(),
            &text(&token, "id"),
            &project.id,
            &text(&token, "token"),
        )
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("llm-proxy.yaml")
    }

    /// The state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The SQLite file.
    pub fn database_path(&self) -> PathBuf {
        self.folder.join("state/llm-proxy.db")
    }

    /// Lays fields on the configuration and saves the file (in place). Does not wait for the reload.
    pub fn save_config(&mut self, over: Value) {
        merge(&mut self.plan.config, over);
        std::fs::write(self.config_path(), self.config_text()).expect("save the configuration");
    }

    /// The text of the configuration as it would be saved now.
    pub fn config_text(&self) -> String {
        self.plan
            .raw
            .clone()
            .unwrap_or_else(|| to_yaml(&self.plan.config))
    }

    /// Lays fields on the configuration without saving.
    pub fn set_config(&mut self, over: Value) {
        merge(&mut self.plan.config, over);
    }

    /// All that the program wrote to its outputs.
    pub fn logs(&self) -> String {
        let read = |name: &str| {
            std::fs::read(self.folder.join(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        format!("{}{}", read("stdout.log"), read("stderr.log"))
    }

    /// Waits for a text in the logs.
    #[track_caller]
    pub fn wait_for_log(&self, needle: &str) {
        let came = wait_until(Duration::from_secs(10), || self.logs().contains(needle));
        assert!(came, "`{needle}` never came in the logs");
    }

    /// The process id.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("a running program").id();
        Pid::from_raw(id.cast_signed()).expect("a process id")
    }

    fn status_field(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).expect("the process status");
        let line = status
            .lines()
            .find(|line| line.starts_with(field))
            .expect("the field");
        let number = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok());
        number.expect("a number")
    }

    /// Memory in use now.
    pub fn resident_kib(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    /// Memory in use at most since the start.
    pub fn peak_kib(&self) -> u64 {
        self.status_field("VmHWM:")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid().as_raw_nonzero());
        std::fs::read_dir(path).expect("the descriptors").count()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("send a signal");
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait_for_exit(&mut self, within: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("a running program");
        let status = wait_for("the end of the program", within, || {
            child.try_wait().expect("ask for the status")
        });
        self.child = None;
        status
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGTERM; insists on exit code 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_for_exit(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "a stop by SIGTERM exits 0");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same data, on new ports.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.kill();
        self.launch();
        self.wait_until_ready();
    }

    /// Starts without waiting for readiness; the program may also end.
    pub fn launch_only(&mut self) {
        self.kill();
        let file = self.state_dir().join("listening.json");
        let _ = std::fs::remove_file(&file);
        self.child = Some(self.spawn());
        wait_until(Duration::from_secs(10), || file.exists() || !self.is_running());
        if self.is_running() {
            let ports = self.wait_for_ports();
            self.take_ports(&ports);
        }
    }

    /// Runs another command of the program in this edge's surroundings.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments);
        self.surround(&mut command);
        command.output().expect("run the program")
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in &self.plan.environment {
            command.env(name, value);
        }
    }

    fn output(&self, name: &str) -> Stdio {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(name));
        Stdio::from(file.expect("a file for the output"))
    }

    #[track_caller]
    fn launch(&mut self) {
        let from = Instant::now();
        self.child = Some(self.spawn());
        let ports = self.wait_for_ports();
        self.started_in = from.elapsed();
        self.take_ports(&ports);
    }

    fn spawn(&self) -> Child {
        spawn_bound_to_us(PROGRAM, |command| {
            command.arg("server").arg("-c").arg(self.config_path());
            self.surround(command);
            command
                .stdout(self.output("stdout.log"))
                .stderr(self.output("stderr.log"));
        })
        .expect("start the program")
    }

    #[track_caller]
    fn take_ports(&mut self, ports: &Value) {
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        self.proxy = address(&ports["proxy"][0]).unwrap_or_else(|| panic!("no proxy address in {ports}"));
        self.management = address(&ports["management"]).unwrap_or(self.proxy);
    }

    /// The file that the program writes once all its listeners accept.
    #[track_caller]
    fn wait_for_ports(&mut self) -> Value {
        let file = self.state_dir().join("listening.json");
        let pid = u64::from(self.child.as_ref().expect("a running program").id());
        let from = Instant::now();
        loop {
            let ports = std::fs::read(&file)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            if let Some(ports) = ports.filter(|ports| ports["pid"] == pid) {
                return ports;
            }
            assert!(
                self.is_running(),
                "the program ended at its start:\n{}",
                self.logs()
            );
            assert!(
                from.elapsed() < Duration::from_secs(20),
                "the program does not listen:\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        let ready = wait_until(Duration::from_secs(20), || {
            self.anonymous()
                .try_send(crate::http::Request::new("GET", "/ready"))
                .is_some_and(|answer| answer.status == 200)
        });
        assert!(ready, "the program never gets ready:\n{}", self.logs());
    }
}

impl Drop for TestEdge {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let logs = self.logs();
            let tail: Vec<&str> = logs.lines().rev().take(40).collect();
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "--- the program's last lines ({})", self.folder.display());
            for line in tail.iter().rev() {
                let _ = writeln!(out, "{}", line.chars().take(600).collect::<String>());
            }
        }
    }
}

impl Plan {
    /// A plan with this configuration and nothing else; state folder and store are added at the start.
    pub fn new(config: Value) -> Self {
        Self {
            config,
            raw: None,
            environment: Vec::new(),
            provider: None,
        }
    }

    /// Lays fields on the configuration; null removes.
    pub fn with(mut self, over: Value) -> Self {
        merge(&mut self.config, over);
        self
    }

    /// Chooses the store.
    pub fn on(self, store: &Store) -> Self {
        match store {
            Store::Sqlite => self,
            Store::Postgres => {
                let url = Postgres::shared().new_database();
                self.with(json!({"database": {"driver": "postgres", "url": url}}))
            }
            Store::Url(url) => self.with(json!({"database": {"driver": "postgres", "url": url}})),
        }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Uses this text as the configuration file.
    pub fn raw(mut self, text: &str) -> Self {
        self.raw = Some(text.to_owned());
        self
    }

    /// Writes the files without starting.
    pub fn prepare(mut self) -> TestEdge {
        let owner = tempfile::Builder::new()
            .prefix("edge-")
            .tempdir()
            .expect("a folder");
        let folder = owner.path().to_owned();
        let state = folder.join("state");
        std::fs::create_dir_all(&state).expect("a state folder");
        let mut base = json!({
            "server": {"state_dir": state},
            "audit": {"file": folder.join("audit.log")},
        });
        if self.config["database"]["url"].is_null() {
            base["database"] = json!({"path": state.join("llm-proxy.db")});
        }
        merge(&mut base, std::mem::take(&mut self.config));
        self.config = base;
        let nowhere: SocketAddr = ([127, 0, 0, 1], 9).into();
        let edge = TestEdge {
            proxy: nowhere,
            management: nowhere,
            child: None,
            plan: self,
            folder,
            _folder_owner: owner,
            names: AtomicU32::new(0),
            started_in: Duration::ZERO,
        };
        std::fs::write(edge.config_path(), edge.config_text()).expect("write the configuration");
        edge
    }

    /// Starts and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> TestEdge {
        let mut edge = self.prepare();
        edge.launch();
        edge.wait_until_ready();
        edge
    }

    /// Starts a program that is expected to end by itself; answers its status and outputs.
    #[track_caller]
    pub fn fails(self) -> Output {
        let edge = self.prepare();
        edge.fails_again()
    }
}

impl TestEdge {
    /// Starts what is prepared and waits for it to end by itself.
    #[track_caller]
    pub fn fails_again(&self) -> Output {
        let mut child = self.spawn();
        let ended = wait_until(Duration::from_secs(15), || !matches!(child.try_wait(), Ok(None)));
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().expect("the status");
        assert!(
            ended,
            "the program should have refused to start:\n{}",
            self.logs()
        );
        Output {
            status,
            stdout: self.logs().into_bytes(),
            stderr: Vec::new(),
        }
    }
}

/// Runs a body once on each store: `for_both_stores! { fn name(store) { … } }`.
#[macro_export]
macro_rules! for_both_stores {
    ($($(#[$meta:meta])* fn $name:ident($store:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            fn run($store: &$crate::edge::Store) $body

            #[test]
            fn on_sqlite() {
                run(&$crate::edge::Store::Sqlite);
            }

            #[test]
            fn on_postgres() {
                run(&$crate::edge::Store::Postgres);
            }
        }
    )+};
}
