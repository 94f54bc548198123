//! A PostgreSQL server of this test process alone, from the system's packages.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A running server; ends with the process.
pub(super) struct PrivateServer {
    pub(super) port: u16,
    pub(super) folder: PathBuf,
}

impl PrivateServer {
    /// The server of this process, started at the first call.
    pub(super) fn shared() -> &'static Self {
        static SERVER: OnceLock<PrivateServer> = OnceLock::new();
        SERVER.get_or_init(|| {
            let (send, receive) = std::sync::mpsc::channel();
            // The server is told to quit when the thread that started it ends: this one ends with the process.
            std::thread::spawn(move || {
                let (server, mut child, _folder) = start();
                send.send(server).unwrap();
                child.wait().unwrap();
            });
            receive.recv().expect("PostgreSQL did not start; see above")
        })
    }

    /// The URL of a database.
    pub(super) fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:unused-password@localhost:{}/{database}",
            self.port
        )
    }

    /// Runs statements, each on its own, as the superuser.
    pub(super) fn execute(&self, database: &str, statements: &[&str]) {
        let mut command = Command::new(program("psql"));
        command.args([
            "-qX",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            "127.0.0.1",
        ]);
        command.args(["-p", &self.port.to_string(), "-d", database]);
        for statement in statements {
            command.args(["-c", statement]);
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A new, empty database.
    pub(super) fn database(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("edge_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &[&format!("CREATE DATABASE {name}")]);
        name
    }
}

fn program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        panic!("PostgreSQL's `{name}` is not in /usr/lib/postgresql: `make test` installs it, or `apt-get install postgresql`")
    })
}

/// PostgreSQL refuses to run as root; then it runs as `postgres`.
fn as_its_user(program: &Path, dies_with_us: bool) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    if dies_with_us {
        command.arg("--pdeathsig=QUIT");
    }
    command.arg("--").arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn start() -> (PrivateServer, Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    certificates(folder.path());
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(folder.path()));
    }
    run(as_its_user(&program("initdb"), false)
        .args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "-D",
        ])
        .arg(&data));
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let setting = |name: &str, value: &str| format!("{name}={value}");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let settings = [
        setting("port", &port.to_string()),
        setting("listen_addresses", "127.0.0.1"),
        setting("unix_socket_directories", &path("")),
        setting("fsync", "off"),
        setting("full_page_writes", "off"),
        setting("max_connections", "60"),
        setting("ssl", "on"),
        setting("ssl_cert_file", &path("server.crt")),
        setting("ssl_key_file", &path("server.key")),
    ];
    let mut command = as_its_user(&program("postgres"), true);
    command
        .arg("-D")
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for setting in &settings {
        command.args(["-c", setting]);
    }
    let mut child = command.spawn().unwrap();
    let server = PrivateServer {
        port,
        folder: folder.path().to_owned(),
    };
    while !is_ready(port) {
        assert!(child.try_wait().unwrap().is_none(), "PostgreSQL ended at once");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (server, child, folder)
}

fn is_ready(port: u16) -> bool {
    Command::new(program("pg_isready"))
        .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
        .status()
        .unwrap()
        .success()
}

/// `ca.crt`, and `server.crt` for `localhost` signed by it; `other.crt` is a root that signed nothing.
fn certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(arguments).current_dir(folder));
    for root in ["ca", "other"] {
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN=test {root}"),
            "-keyout",
            &format!("{root}.key"),
            "-out",
            &format!("{root}.crt"),
        ]);
    }
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ]);
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ]);
    run(Command::new("chmod")
        .args(["0600", "server.key"])
        .current_dir(folder));
}
