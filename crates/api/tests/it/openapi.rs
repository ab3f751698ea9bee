//! The committed `openapi.json` is what the code says.

use std::path::Path;

#[test]
fn the_committed_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let committed = std::fs::read_to_string(path).unwrap();
    let generated = format!("{}\n", verbatim_api_lib::openapi().to_pretty_json().unwrap());
    assert!(committed == generated, "openapi.json has drifted: just openapi writes it anew");
}
