//! The fault harness: a cluster of real processes on a real Redis, a load with known answers, faults drawn from a seed,
//! and a checker that tells from what clients saw and from what the stores hold whether anything was lost, is wrong, or
//! was published by a worker that had lost its lease.

pub mod blame;
pub mod caps;
pub mod check;
pub mod client;
pub mod cluster;
pub mod engine;
pub mod faults;
pub mod history;
pub mod inspect;
pub mod load;
pub mod node;
pub mod proxy;
pub mod random;
pub mod redis_server;
pub mod room;
pub mod run;
pub mod sentinel;
pub mod sound;
