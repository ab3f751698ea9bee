//! From the settings of the service to an engine: what the binaries hand to the composition root.

use std::num::NonZeroUsize;
use std::sync::Arc;

use verbatim_core::ports::SpeechEngine;
use verbatim_core::ports::local_engine::{self, LocalEngineSettings};

use crate::{ComputeType, ModelSource, WhisperConfig, WhisperEngine};

/// Loads the engine; blocks until its weights are in memory.
///
/// # Errors
/// [`crate::LoadError`], when a model's folder cannot be used.
pub fn load(settings: LocalEngineSettings) -> Result<Arc<dyn SpeechEngine>, local_engine::LoadError> {
    let models = settings.models.into_iter().map(|(name, folder)| ModelSource { name, folder }).collect();
    let config = WhisperConfig {
        replicas: NonZeroUsize::new(settings.replicas),
        threads_per_replica: NonZeroUsize::new(settings.threads_per_replica),
        compute_type: match settings.compute_type {
            local_engine::ComputeType::Int8 => ComputeType::Int8,
            local_engine::ComputeType::Int8Float16 => ComputeType::Int8Float16,
            local_engine::ComputeType::Float16 => ComputeType::Float16,
            local_engine::ComputeType::Float32 => ComputeType::Float32,
        },
        ..WhisperConfig::new(models)
    };
    Ok(Arc::new(WhisperEngine::load(&config)?))
}
