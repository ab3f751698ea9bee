//! The router over ports in memory: one request, one answer.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not there")]

mod admin;
mod answers;
mod audit;
mod connections;
mod crowd;
mod disk;
mod edge;
mod keys;
mod limits;
mod openai;
mod shares;
mod stats;
mod support;
mod tenants;
mod uploads;
