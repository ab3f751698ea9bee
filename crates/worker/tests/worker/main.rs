//! The worker, seen from outside: single attempts, the running worker, the pipeline, the upkeep, and all of it on the
//! embedded store. Time is tokio's and paused wherever a test waits for it.

mod attempts;
mod pipeline;
mod running;
mod sqlite;
mod support;
mod upkeep;
