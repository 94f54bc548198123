//! Threads and signals: one current-thread runtime a core for the data plane, one small runtime for the rest.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::listen::{Front, serve};
use crate::proxy::EdgeServer;

/// Blocking work at once: file reads, name look-ups, canonical forms of large bodies.
const BLOCKING_THREADS: usize = 32;

/// How often a worker's timers are looked at when nothing else happens.
const TIMER_LOOK: Duration = Duration::from_millis(200);

/// The runtime of everything that is not the data plane: stores, sidecar, reload, writers.
pub fn control() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Starts the data plane: `threads` runtimes, each with its own accept loop on every listener.
pub fn start_workers(
    threads: usize,
    listeners: &[TcpListener],
    front: &Arc<Front<EdgeServer>>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut workers = Vec::with_capacity(threads);
    for number in 0..threads.max(1) {
        let mut own = Vec::with_capacity(listeners.len());
        for listener in listeners {
            own.push(listener.try_clone()?);
        }
        let front = Arc::clone(front);
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        let worker = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(work(own, front)))?;
        workers.push(worker);
    }
    Ok(workers)
}

/// Accepts on every listener until the drain ends, then waits for the last connection.
async fn work(listeners: Vec<TcpListener>, front: Arc<Front<EdgeServer>>) {
    let loops = listeners.into_iter().map(|listener| {
        let front = Arc::clone(&front);
        async move {
            if let Err(error) = serve(listener, front).await {
                log::error!("a listener could not be served: {error}");
            }
        }
    });
    let serving = async {
        futures_util::future::join_all(loops).await;
        front.drain().connections().wait_until_empty().await;
    };
    tokio::select! {
        () = serving => {}
        () = keep_a_timer_near() => {}
    }
}

/// Never ends. A runtime that is given a timer nearer than all others writes to its own wake-up descriptor, although
/// it is awake: two writes and a turn of the loop for each request. Beside a timer that is always nearer none is.
async fn keep_a_timer_near() {
    loop {
        tokio::time::sleep(TIMER_LOOK).await;
    }
}

/// The signals that the process obeys.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT: end in order; a second one: at once.
    End,
    /// SIGHUP: read the configuration again.
    Reload,
}

impl Signals {
    /// Takes the signals over from the system's defaults.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
