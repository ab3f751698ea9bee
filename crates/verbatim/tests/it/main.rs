//! The binary as users meet it: over HTTP and on the command line, in good times and bad.

#![allow(clippy::duplicate_mod, reason = "the HTTP contract runs once over each store")]

mod audit;
mod backup;
mod bad_inputs;
mod blobs;
mod clocks;
mod cluster;
mod command_line;
mod durability;
mod examples;
mod half_open;
mod http;
/// The same contract over the cluster's store.
#[path = "http/mod.rs"]
mod http_over_redis;
mod intake;
mod keys;
mod openai_sdk;
mod outages;
mod providers;
mod recycle;
mod redis_tls;
mod start;
mod subscription;
#[path = "../support/mod.rs"]
mod support;
mod tenants;
mod tracing;
mod worker_life;
