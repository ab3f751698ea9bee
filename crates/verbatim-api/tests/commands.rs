//! What operators do beside a running node, with the binary that its container has.

use std::process::Command;

#[test]
fn audio_and_results_can_be_looked_at() {
    let folder = std::env::temp_dir().join(format!("verbatim-api-blobs-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim-api"));
    command.args(["blobs", "list", "--data-dir"]).arg(&folder).current_dir(std::env::temp_dir());
    let output = command.env_remove("VERBATIM__REDIS__URL").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("there are no audio and no results"), "{said}");
    std::fs::remove_dir_all(folder).expect("the folder is ours");
}
