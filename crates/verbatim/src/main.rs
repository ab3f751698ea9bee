//! The `verbatim` binary: everything in one process, with the local engine linked in.

use std::process::ExitCode;

fn main() -> ExitCode {
    verbatim_app::run(Some(verbatim_whisper::load))
}
