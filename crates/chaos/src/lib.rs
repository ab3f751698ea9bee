//! The fault harness: a cluster of real processes on a real Redis, a load with known answers, faults drawn from a seed,
//! and a checker that proves from what clients saw and from what the stores hold that nothing was lost, nothing is wrong,
//! and nothing was published by a worker that had lost its lease.

pub mod check;
pub mod engine;
pub mod history;
pub mod node;
pub mod proxy;
pub mod random;
pub mod redis_server;
pub mod room;
pub mod sound;
