//! The one place where background tasks start, so that shutdown can wait for them.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Running(&'static str);

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        if std::thread::panicking() {
            log::error!(task = self.0; "background task `{}` panicked", self.0);
        }
    }
}

/// Starts a named task on the current runtime. Its panic is logged with its name.
#[expect(clippy::disallowed_methods, reason = "the one place where tasks start")]
pub fn spawn<F>(name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let running = Running(name);
    tokio::spawn(async move {
        let _running = running;
        future.await
    })
}

/// Starts a named task on a given runtime, from any thread. Its panic is logged with its name.
pub fn spawn_on<F>(runtime: &tokio::runtime::Handle, name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let _entered = runtime.enter();
    drop(spawn(name, future));
}

/// How many tasks started here have not ended.
pub fn running() -> usize {
    RUNNING.load(Ordering::Acquire)
}
