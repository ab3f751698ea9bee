//! Engines other than the local one, and the choice between engines.

pub mod fake;
pub mod set;

pub use fake::{FakeEngine, FakeFailures};
pub use set::EngineSet;
