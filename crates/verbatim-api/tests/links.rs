//! The API node is a small program: it must not need the engine's libraries.

use std::process::Command;

#[test]
fn an_api_node_links_no_cpp() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_verbatim-api")).output().expect("ldd runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let libraries = String::from_utf8_lossy(&output.stdout);
    assert!(libraries.contains("libc.so"), "ldd lists libraries: {libraries}");
    for library in ["libctranslate2", "libstdc++", "libgomp"] {
        assert!(!libraries.contains(library), "{library} is linked: {libraries}");
    }
}
