//! Engines other than the local one, and the choice between engines.

pub mod fake;
mod http;
pub mod set;
mod speech_file;

pub use fake::{FakeEngine, FakeFailures};
pub use set::EngineSet;
