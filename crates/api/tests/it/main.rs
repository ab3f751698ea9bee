//! The router over ports in memory: one request, one answer.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not there")]

mod answers;
mod keys;
mod openai;
mod support;
mod uploads;
