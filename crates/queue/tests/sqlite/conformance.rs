//! The SQLite store against the suite that every store must pass, and against the reference model.

#[path = "../model/limits.rs"]
mod limits;
#[path = "../model/mod.rs"]
mod model;

use crate::support::SqliteHarness;

verbatim_queue::conformance_suite!(SqliteHarness::new());

#[test]
fn any_history_agrees_with_the_model() {
    model::agrees(64, SqliteHarness::new);
}

#[test]
fn no_job_waits_longer_than_stated_in_any_cluster() {
    model::serves_everybody(12, SqliteHarness::new);
}

#[test]
fn any_requests_agree_with_the_model_of_limits() {
    limits::agree(64, SqliteHarness::new);
}
