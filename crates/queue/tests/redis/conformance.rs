//! The suite that every store must pass, and the reference model.

#[path = "../model/limits.rs"]
mod limits;
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

#[test]
fn no_job_waits_longer_than_stated_in_any_cluster() {
    let server = RedisServer::start(&[]);
    model::serves_everybody(24, || RedisHarness::at(&server.url()));
}

#[test]
fn any_requests_agree_with_the_model_of_limits() {
    let server = RedisServer::start(&[]);
    limits::agree(64, || RedisHarness::at(&server.url()));
}
