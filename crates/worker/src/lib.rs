//! The worker: it leases jobs, runs each through the pipeline and finishes it under its fence; and the maintenance
//! that any node may do beside it.
//!
//! apalis runs the loop ([`Worker::run`]); [`Worker::run_once`] does the same work one job at a time, for tests. What a
//! worker promises: a lease is renewed for as long as somebody works on it, a job that is given up is finished under
//! its fence or left to lapse, and nothing is published after a lease was lost.

mod attempt;
mod backend;
mod backoff;
mod claimer;
mod config;
mod finish;
mod held;
mod keeper;
mod maintenance;
mod pipeline;
mod report;
mod scratch;
mod session;
mod slots;
mod stages;
mod storage_retry;
mod worker;

pub use config::{MaintenanceConfig, Sweep, TimeLimit, WorkerConfig};
pub use maintenance::{Deleted, Maintenance, Sweeper};
pub use pipeline::{Heard, Pipeline, PipelineConfig, PipelineObserver};
pub use session::ShutdownSignals;
pub use stages::StageLimits;
pub use worker::{Step, Worker, WorkerError, WorkerExit, WorkerPorts};
