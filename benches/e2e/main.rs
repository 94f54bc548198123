//! The programs that the end-to-end measurement (`benches/e2e/run`) runs against each other.
#![expect(
    clippy::disallowed_methods,
    reason = "these programs stand beside the product: they read clocks and spawn by themselves"
)]

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

mod bare;
mod load;
mod provider;
mod wire;

/// The allocator of the product, so that ratios are about the code.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct CommandLine {
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// A Pingora that passes everything through, and nothing else: the yardstick.
    Bare {
        listen: SocketAddr,
        upstream: SocketAddr,
    },
    /// A provider that answers at once.
    Provider { listen: SocketAddr },
    /// Sends plain requests one after another on each connection.
    Plain(Load),
    /// Reads streamed answers one after another on each connection.
    Stream(Load),
    /// Opens streams and holds them until standard input ends.
    Hold(Load),
}

/// What is sent, and for how long.
#[derive(Args)]
struct Load {
    target: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The model asked for.
    #[arg(long, default_value = "bench")]
    model: String,
    /// Size of the request body.
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// Events of each stream.
    #[arg(long, default_value_t = 100)]
    chunks: u64,
    /// Pause before each event.
    #[arg(long, default_value_t = 0)]
    pause_micros: u64,
    /// Further header lines.
    #[arg(long = "header")]
    headers: Vec<String>,
}

fn main() -> Result<()> {
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        writeln!(std::io::stdout(), "end to end: run benches/e2e/run")?;
        return Ok(());
    }
    match CommandLine::parse().program {
        Program::Bare { listen, upstream } => bare::serve(listen, upstream),
        Program::Provider { listen } => on_one_thread(provider::serve(listen)),
        Program::Plain(load) => on_one_thread(load::plain(load)),
        Program::Stream(load) => on_one_thread(load::stream(load)),
        Program::Hold(load) => on_one_thread(load::hold(load)),
    }
}

fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
