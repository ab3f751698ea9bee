//! The worker, seen from outside: single attempts, the running worker, the pipeline, the maintenance, and all of it on the
//! embedded store. Time is tokio's and paused wherever a test waits for it.

mod attempts;
mod lost_blobs;
mod maintenance;
mod pipeline;
mod recycling;
mod running;
mod sqlite;
mod support;
mod turns;
