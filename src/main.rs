//! Parses the command line, runs it, and maps the outcome to an exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    llm_proxy::cli::main()
}
