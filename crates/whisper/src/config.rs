//! How many copies of which models run on what.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// A model to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// The name that clients use.
    pub name: String,
    /// Its folder: `model.bin`, `config.json` and `vocabulary.json` or `vocabulary.txt`, as CTranslate2 converts them.
    pub folder: PathBuf,
}

/// Where the models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// On CUDA devices when CTranslate2 finds any, else on the processor.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On every CUDA device; an error when there is none.
    Cuda,
}

/// The arithmetic of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeType {
    /// 8-bit integers: smallest, and fastest on processors.
    #[default]
    Int8,
    /// 8-bit integers with 16-bit floats between; CUDA only.
    Int8Float16,
    /// 16-bit floats; CUDA only.
    Float16,
    /// 32-bit floats.
    Float32,
}

impl ComputeType {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Float16 => "int8_float16",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
        }
    }
}

/// What the engine loads.
#[derive(Debug, Clone)]
pub struct WhisperConfig {
    /// The models; the first is the default.
    pub models: Vec<ModelSource>,
    /// Where they run.
    pub device: Device,
    /// Their arithmetic.
    pub compute_type: ComputeType,
    /// Copies of each model, each of which hears one batch at a time; chosen by cores and memory when absent.
    pub replicas: Option<NonZeroUsize>,
    /// Threads that each copy computes with; when absent, the cores shared among the copies. One thread and several
    /// copies transcribe more per second than several threads and one copy.
    pub threads_per_replica: Option<NonZeroUsize>,
    /// Most windows, each of another job, in a batch; when absent, 4 on a processor and 8 on a CUDA device. As many jobs run
    /// at once as fill the batches of all copies.
    pub max_batch: Option<NonZeroUsize>,
    /// Least time between two checkpoints of a job.
    pub checkpoint_every: Duration,
}

impl WhisperConfig {
    /// The default set-up with these models.
    pub fn new(models: Vec<ModelSource>) -> Self {
        Self {
            models,
            device: Device::default(),
            compute_type: ComputeType::default(),
            replicas: None,
            threads_per_replica: None,
            max_batch: None,
            checkpoint_every: Duration::from_secs(30),
        }
    }
}
