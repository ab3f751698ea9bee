//! The `verbatim-api` binary: takes jobs in and hands results out; links no C++.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    verbatim_app::run_api().await
}
