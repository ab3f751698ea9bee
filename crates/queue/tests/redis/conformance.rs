//! The suite that every store must pass, and the reference model.

#[path = "../model/mod.rs"]
mod model;

use crate::server::RedisServer;
use crate::support::RedisHarness;

verbatim_queue::conformance_suite!(RedisHarness::new());

#[test]
fn any_history_agrees_with_the_model() {
    let server = RedisServer::start(&[]);
    model::agrees(64, || RedisHarness::at(&server.url()));
}
