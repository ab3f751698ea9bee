//! From configuration to engines. The local engine is handed in by the binary, because this crate must not link C++.

use std::sync::Arc;

use anyhow::{Context, bail};
use verbatim_core::ports::SpeechEngine;
use verbatim_core::ports::local_engine::{LoadLocalEngine, LocalEngineSettings};
use verbatim_engines::{EngineSet, FakeEngine};

use crate::commands::models::ensure;
use crate::config::{Config, EngineKind};

/// Every engine the configuration names, the preferred one first. Fetches models that are missing.
///
/// # Errors
/// When a model cannot be had or loaded, or the binary has no local engine.
pub async fn load(config: &Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<EngineSet> {
    let mut engines: Vec<Arc<dyn SpeechEngine>> = Vec::new();
    for kind in &config.worker.engines {
        match kind {
            EngineKind::Whisper => engines.push(load_whisper(config, whisper).await?),
            EngineKind::Fake => engines.push(Arc::new(FakeEngine::new(config.fake.real_time_factor))),
        }
    }
    EngineSet::new(engines).context("worker.engines names no engine")
}

async fn load_whisper(
    config: &Config,
    whisper: Option<LoadLocalEngine>,
) -> anyhow::Result<Arc<dyn SpeechEngine>> {
    let Some(load) = whisper else {
        bail!(
            "this binary has no local Whisper engine; use `verbatim` or `verbatim-worker`, or name other engines in worker.engines"
        );
    };
    let mut models = Vec::new();
    for name in std::iter::once(&config.whisper.model).chain(&config.whisper.additional_models) {
        let folder = ensure(&config.models, name, false).await?;
        models.push((model_name(name), folder));
    }
    let settings = LocalEngineSettings {
        models,
        replicas: config.whisper.replicas,
        threads_per_replica: config.whisper.threads_per_replica,
        compute_type: config.whisper.compute_type,
    };
    let loaded = tokio::task::spawn_blocking(move || load(settings)).await;
    loaded.context("loading the model panicked")?.map_err(anyhow::Error::from_boxed)
}

/// The name under which clients know a model: that of its folder when it is given by path.
fn model_name(name_or_path: &str) -> String {
    let path = std::path::Path::new(name_or_path);
    path.file_name().map_or_else(|| name_or_path.to_owned(), |name| name.to_string_lossy().into_owned())
}
