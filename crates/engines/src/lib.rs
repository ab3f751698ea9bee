//! Engines other than the local one, and the choice between engines.

pub mod fake;
mod http;
pub mod pool;
pub mod set;
mod speech_file;

pub use fake::{FakeEngine, FakeFailures};
pub use pool::{PoolConfig, PoolError, PoolPorts, Provider, ProviderPool};
pub use set::EngineSet;
