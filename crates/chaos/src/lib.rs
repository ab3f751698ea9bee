//! The parts of the fault harness: real processes under a supervisor, a real Redis behind a proxy, a small disk, an engine
//! that obeys its audio, faults drawn from a seed, and a checker that tells from what clients saw and from what the stores
//! hold whether anything was lost, is wrong, or was published by a worker that had lost its lease. What puts them
//! together to a cluster under load is not written yet.

pub mod check;
pub mod engine;
pub mod faults;
pub mod history;
pub mod node;
pub mod proxy;
pub mod random;
pub mod redis_server;
pub mod room;
pub mod sound;
