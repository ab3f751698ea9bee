//! The `verbatim-api` binary: takes jobs in and hands results out; links no C++.

use std::process::ExitCode;

fn main() -> ExitCode {
    verbatim_app::run_api()
}
