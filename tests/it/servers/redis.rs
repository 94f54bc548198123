//! A private Redis from the distribution's packages, without persistence.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::free_port;
use super::guarded::spawn_bound_to_us;
use crate::wait::wait_until;

/// A server on a port of its own.
pub struct Redis {
    port: u16,
    child: Option<Child>,
}

impl Redis {
    /// Starts.
    pub fn start() -> Self {
        let mut server = Self {
            port: free_port(),
            child: None,
        };
        server.start_again();
        server
    }

    /// Starts again on the same port, empty.
    #[track_caller]
    pub fn start_again(&mut self) {
        let port = self.port.to_string();
        let child = spawn_bound_to_us("redis-server", |command| {
            command
                .args([
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--dir",
                    "/tmp",
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        })
        .expect("start redis-server (`make deps-test` installs it)");
        self.child = Some(child);
        assert!(
            wait_until(Duration::from_secs(10), || self.say("PING").contains("PONG")),
            "Redis does not start"
        );
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Sends one command line; answers what came back.
    pub fn say(&self, line: &str) -> String {
        let mut answer = vec![0; 64 * 1024];
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return String::new();
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        if stream.write_all(format!("{line}\r\n").as_bytes()).is_err() {
            return String::new();
        }
        let count = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    /// Stops.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
