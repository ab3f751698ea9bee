//! The suite that every store must pass.

use crate::support::RedisHarness;

verbatim_queue::conformance_suite!(RedisHarness::new());
