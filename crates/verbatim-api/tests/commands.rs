//! What operators do beside a running node, with the binary that its container has.

use std::path::Path;
use std::process::Command;

/// Whether `blobs` with this argument succeeds there, and what it says.
fn blobs(argument: &str, folder: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim-api"));
    command.args(["blobs", argument, "--data-dir"]).arg(folder).current_dir(std::env::temp_dir());
    let output = command.env_remove("VERBATIM__REDIS__URL").output().expect("the binary runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn audio_and_results_are_looked_at_and_nothing_is_made_where_they_are_not() {
    let folder = std::env::temp_dir().join(format!("verbatim-api-blobs-{}", std::process::id()));
    let (succeeds, said) = blobs("list", &folder);
    assert!(succeeds && said.contains("there are no audio and no results"), "{said}");
    // A share that is not mounted is not made into the right place.
    let (succeeds, said) = blobs("adopt", &folder);
    assert!(!succeeds && said.contains("make it first"), "{said}");
    assert!(!folder.exists());
}
