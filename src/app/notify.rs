//! Tells systemd how far the process is (`sd_notify`): readiness, reloads, stopping, more time.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The notification socket of the service manager, if there is one.
#[derive(Debug)]
pub struct Notify {
    socket: Option<(UnixDatagram, std::path::PathBuf)>,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET`. Abstract sockets (`@…`) and failures mean that nobody is told.
    pub fn from_environment(notify_socket: Option<&std::ffi::OsStr>) -> Self {
        let socket = notify_socket
            .filter(|path| path.as_encoded_bytes().first() == Some(&b'/'))
            .and_then(|path| Some((UnixDatagram::unbound().ok()?, std::path::PathBuf::from(path))));
        Self { socket }
    }

    /// Everything is accepted now.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// The process ends; it will take up to `drain` more.
    pub fn stopping(&self, drain: Duration) {
        self.send(&format!(
            "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}",
            (drain.as_micros() + 10_000_000)
        ));
    }

    /// A sentence for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some((socket, path)) = &self.socket
            && let Err(error) = socket.send_to(message.as_bytes(), path)
        {
            log::debug!("the service manager could not be told: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_ready_and_stopping() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::from_environment(Some(path.as_os_str()));
        notify.ready();
        notify.stopping(Duration::from_mins(1));
        let mut buffer = [0u8; 256];
        let length = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"READY=1"));
        let length = manager.recv(&mut buffer).unwrap();
        assert!(
            std::str::from_utf8(&buffer[..length])
                .unwrap()
                .contains("EXTEND_TIMEOUT_USEC=70000000")
        );
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notify::from_environment(None).ready();
    }
}
