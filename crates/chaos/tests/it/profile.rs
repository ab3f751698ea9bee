//! The short profile, as CI runs it.

use anyhow::{Result, ensure};
use tokio::process::Command;

#[tokio::test]
async fn a_cluster_under_faults_loses_nothing() -> Result<()> {
    let mut harness = Command::new(env!("CARGO_BIN_EXE_verbatim-chaos"));
    let output = harness.args(["--profile", "short", "--seed", "1"]).kill_on_drop(true).output().await?;
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}{failed}");
    Ok(())
}
