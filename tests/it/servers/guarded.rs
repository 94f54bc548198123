//! Children that cannot outlive the test process.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};

type Order = (Command, SyncSender<std::io::Result<Child>>);

/// Starts a child that the kernel kills when this process ends, with the process id of the program itself.
///
/// The kernel watches the *thread* that starts a child, so one thread that lives as long as the process starts them all.
pub fn spawn_bound_to_us(program: &str, prepare: impl FnOnce(&mut Command)) -> std::io::Result<Child> {
    static NURSERY: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, inbox): (SyncSender<Order>, Receiver<Order>) = sync_channel(16);
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    prepare(&mut command);
    let (reply, answer) = sync_channel(1);
    nursery
        .lock()
        .expect("the nursery")
        .send((command, reply))
        .expect("the nursery lives");
    answer.recv().expect("the nursery answers")
}

/// A shell script whose standard input is a pipe from us: it reads it and cleans up at its end.
pub(super) struct Guarded {
    child: Child,
}

impl Guarded {
    pub(super) fn start(script: &str, arguments: &[&str]) -> Self {
        let child = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg("sh")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a guarded server");
        Self { child }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes the pipe and waits for the script's end.
    pub(super) fn stop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}
