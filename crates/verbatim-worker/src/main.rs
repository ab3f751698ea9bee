//! The `verbatim-worker` binary: works on jobs, with the local engine linked in.

use std::process::ExitCode;

fn main() -> ExitCode {
    verbatim_app::run_worker(Some(verbatim_whisper::load))
}
