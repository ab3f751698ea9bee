//! What a local engine is loaded with. The crate that reads the configuration must not link the engine, and the engine must
//! not know the configuration: they meet here.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::engine::SpeechEngine;

/// How the weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeType {
    /// 8-bit weights: fastest on CPUs.
    #[default]
    Int8,
    /// 8-bit weights and 16-bit activations: GPUs.
    Int8Float16,
    /// 16-bit: GPUs.
    Float16,
    /// 32-bit: slow, for comparison.
    Float32,
}

/// What to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEngineSettings {
    /// Name and folder of each model, the default first.
    pub models: Vec<(String, PathBuf)>,
    /// Copies of each model; 0 chooses by cores and memory.
    pub replicas: usize,
    /// Threads of each copy; 0 shares the cores among the copies.
    pub threads_per_replica: usize,
    /// How the weights are held.
    pub compute_type: ComputeType,
}

/// Why a local engine could not be loaded, for the operator.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// Loads a local engine; blocks until its weights are in memory.
pub type LoadLocalEngine = fn(LocalEngineSettings) -> Result<Arc<dyn SpeechEngine>, LoadError>;
