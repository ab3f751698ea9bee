//! The binary finds its library, and says what it lacks.

use std::process::Command;

#[test]
fn a_worker_without_a_redis_says_what_to_set() {
    let folder = std::env::temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim-worker"));
    command.arg("--data-dir").arg(folder.join("verbatim-worker-that-never-starts")).current_dir(folder);
    let output = command.env_remove("VERBATIM__REDIS__URL").output().expect("the binary runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("VERBATIM__REDIS__URL=redis://"), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "one sentence: {complaint}");
}
