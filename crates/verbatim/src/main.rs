//! The `verbatim` binary: everything in one process, with the local engine linked in.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use verbatim_app::config::ComputeType;
use verbatim_app::engines::WhisperSettings;
use verbatim_core::ports::SpeechEngine;
use verbatim_whisper::{ModelSource, WhisperConfig, WhisperEngine};

#[tokio::main]
async fn main() -> ExitCode {
    verbatim_app::run(Some(load_whisper)).await
}

/// Loads the local engine as configured.
fn load_whisper(settings: WhisperSettings) -> anyhow::Result<Arc<dyn SpeechEngine>> {
    let models = settings.models.into_iter().map(|(name, folder)| ModelSource { name, folder }).collect();
    let config = WhisperConfig {
        replicas: NonZeroUsize::new(settings.replicas),
        threads_per_replica: NonZeroUsize::new(settings.threads_per_replica),
        compute_type: match settings.compute_type {
            ComputeType::Int8 => verbatim_whisper::ComputeType::Int8,
            ComputeType::Int8Float16 => verbatim_whisper::ComputeType::Int8Float16,
            ComputeType::Float16 => verbatim_whisper::ComputeType::Float16,
            ComputeType::Float32 => verbatim_whisper::ComputeType::Float32,
        },
        ..WhisperConfig::new(models)
    };
    Ok(Arc::new(WhisperEngine::load(&config)?))
}
