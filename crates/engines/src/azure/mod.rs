//! Azure AI Speech: fast transcription, short audio and batch transcription over REST, with keys or short-lived tokens.
//!
//! Contracts: learn.microsoft.com/azure/ai-services/speech-service, "Fast transcription API", "Speech to text REST API for
//! short audio" and "Batch transcription", api-version 2024-11-15.

mod batch;
mod body;
mod caller;
mod config;
mod failures;
mod fast;
mod locales;
mod phrases;
mod short;
mod times;
pub mod tokens;
mod transcript;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use verbatim_core::CancellationToken;
use verbatim_core::model::ModelInfo;
use verbatim_core::options::Task;
use verbatim_core::ports::BlobStore;
use verbatim_core::ports::engine::{
    Capabilities, Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine,
};
use verbatim_core::transcript::Transcript;

use self::batch::{Batch, left_behind};
use self::caller::Caller;
use self::config::Addresses;
use self::tokens::{SpeechAccount, TokenService, key_header};

pub use self::config::{
    AzureAuth, AzureBatch, AzureConfig, AzureConfigError, AzureLimits, AzureMode, AzureTimeouts, Profanity,
};

/// The engine's name.
pub const AZURE: &str = "azure";
/// The name of its only model.
pub const MODEL: &str = "azure-speech";

/// What the engine needs.
#[derive(Clone)]
pub struct AzurePorts {
    /// Where tokens come from; one for all engines of a process.
    pub tokens: Arc<TokenService>,
    /// Where uploads lie, for batch transcription by URL.
    pub blobs: Option<Arc<dyn BlobStore>>,
}

/// One Azure Speech resource.
pub struct AzureEngine {
    config: AzureConfig,
    addresses: Addresses,
    caller: Caller,
    blobs: Option<Arc<dyn BlobStore>>,
}

impl AzureEngine {
    /// An engine for a resource. Asks nothing of Azure yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: AzureConfig, ports: AzurePorts) -> Result<Self, AzureConfigError> {
        config.check()?;
        let addresses = Addresses::new(&config)?;
        let client = crate::http::client().map_err(|error| AzureConfigError::Client(error.to_string()))?;
        let caller = Caller {
            client,
            auth: config.auth,
            key: key_header(&config.key).map_err(|_| AzureConfigError::Key)?,
            account: SpeechAccount::new(&config.region, config.key.clone(), addresses.issuer.clone()),
            tokens: ports.tokens,
        };
        Ok(Self { config, addresses, caller, blobs: ports.blobs })
    }

    /// Whatever changes the words: interface and version, and what the configuration asks of them.
    fn revision(&self) -> String {
        let AzureConfig { mode, api_version, candidate_locales, locales, profanity, channels, .. } =
            &self.config;
        let mut chosen: Vec<_> = locales.iter().map(|(language, locale)| (language.code(), locale)).collect();
        chosen.sort_unstable();
        let asked = format!("{candidate_locales:?} {chosen:?} {profanity:?} {channels:?}");
        let digest = hex::encode(&Sha256::digest(asked.as_bytes())[..4]);
        format!("azure-{}/{api_version}/{digest}", format!("{mode:?}").to_lowercase())
    }

    /// Whether there is a chance that Azure can fetch uploads.
    fn does_batches(&self) -> bool {
        self.config.mode == AzureMode::Batch && self.blobs.is_some()
    }

    async fn choose(
        &self,
        request: &EngineRequest,
        observer: &dyn EngineObserver,
        cancel: &CancellationToken,
    ) -> Result<Transcript, EngineError> {
        if self.config.mode == AzureMode::Short
            && let Some(locale) = short::locale_for(&self.config, request)
        {
            return short::transcribe(self, request, &locale, cancel).await;
        }
        let batch = Batch { engine: self, request, observer, cancel };
        if self.does_batches() {
            if let Some(operation) = request.resume.as_ref().and_then(|point| left_behind(self, point)) {
                return batch.run(Some(operation)).await;
            }
            let is_long = length_of(request) > self.config.limits.batch_above;
            if is_long && batch.has_source().await? {
                return batch.run(None).await;
            }
        }
        fast::transcribe(self, request, cancel).await
    }
}

/// Length of the audio.
fn length_of(request: &EngineRequest) -> Duration {
    Duration::from_millis(request.audio.duration_ms())
}

#[async_trait]
impl SpeechEngine for AzureEngine {
    fn name(&self) -> &str {
        AZURE
    }

    fn capabilities(&self) -> Capabilities {
        let model = ModelInfo {
            name: MODEL.to_owned(),
            engine: AZURE.to_owned(),
            multilingual: true,
            translates: false,
            diarizes: true,
            revision: self.revision(),
        };
        Capabilities {
            models: vec![model],
            concurrency: self.config.limits.concurrency,
            max_duration: (!self.does_batches()).then_some(self.config.limits.max_duration),
        }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        if cancel.is_cancelled() {
            return Err(failures::cancelled());
        }
        if request.options.task == Task::Translate {
            return Err(failures::unsupported(
                "Azure Speech does not translate; use a multilingual Whisper model",
            ));
        }
        let duration_ms = request.audio.duration_ms();
        if request.audio.is_empty() {
            return Ok(transcript::transcript(Vec::new(), duration_ms, &request.options));
        }
        let found = self.choose(&request, observer.as_ref(), &cancel).await?;
        observer.window_done(duration_ms, &found.segments);
        Ok(found)
    }

    async fn abandon(&self, checkpoint: Checkpoint) {
        if let Some(operation) = left_behind(self, &checkpoint) {
            batch::remove(self, &operation).await;
        }
    }
}
