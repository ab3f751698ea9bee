//! Engines other than the local one, and the choice between engines.

pub mod azure;
pub mod fake;
mod http;
pub mod openai;
pub mod pool;
mod speech_file;

pub use azure::AzureEngine;
pub use fake::{FakeEngine, FakeFailures};
pub use openai::{OpenAiConfig, OpenAiEngine};
pub use pool::{PoolConfig, PoolError, PoolPorts, Provider, ProviderPool};
