//! `llm-proxy completions`: what a shell completes.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Failure, output};

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell that shall read it: `source <(llm-proxy completions bash)`.
    shell: Shell,
}

/// Runs `completions`.
pub fn run(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "llm-proxy",
        &mut script,
    );
    output::raw(&String::from_utf8_lossy(&script))
}
