//! Any service with OpenAI's audio API: OpenAI itself, Groq, a server of one's own, another Verbatim. `../shared/API.md` has
//! the contract.
//!
//! Audio is sent as WAV (16-bit, 16 kHz, one channel) while it is read. What is over the service's limit is cut where nobody
//! speaks, into pieces that touch and do not overlap, and each piece is a request of its own. A piece is told nothing of
//! the text before it, although the API has a field for that: Whisper takes such a prompt for what was said last, and
//! sometimes goes on after it by leaving out or repeating words. The client's own prompt goes to every piece.

mod answer;
mod config;
mod failure;
mod pieces;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Client;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{SAMPLES_PER_MS, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::model::ModelInfo;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{Capabilities, EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Transcript;

use crate::http::{self, Bounds};
use answer::Heard;
use pieces::Progress;
use request::Format;

pub use config::{ConfigError, OpenAiConfig, OpenAiModel};

/// The engine's name.
pub const OPENAI: &str = "openai";
/// Longer answers are no transcripts: hours of speech with every word and token are a tenth of it.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// One model, and what was learnt about it.
#[derive(Debug)]
struct Model {
    config: OpenAiModel,
    info: ModelInfo,
    /// It refuses `verbose_json`: there are no times but those of the piece.
    text_only: AtomicBool,
}

/// The engine.
#[derive(Debug)]
pub struct OpenAiEngine {
    config: OpenAiConfig,
    models: Vec<Model>,
    http: Client,
}

/// A request for one piece.
#[derive(Clone, Copy)]
struct Ask<'a> {
    request: &'a EngineRequest,
    model: &'a Model,
    cancel: &'a CancellationToken,
    /// Whether a request was made already.
    sent: &'a AtomicBool,
}

impl OpenAiEngine {
    /// An engine for one service.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: OpenAiConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let http = http::client().map_err(ConfigError::Tls)?;
        let models = config.models.iter().map(|model| Model {
            config: model.clone(),
            info: ModelInfo {
                name: model.name.clone(),
                engine: OPENAI.to_owned(),
                multilingual: model.multilingual,
                translates: model.translates,
                diarizes: false,
                // The same name may mean another model elsewhere. The address holds no secrets: `check` sees to it.
                revision: format!("{OPENAI}:{}:{}", config.base_url.trim_end_matches('/'), model.upstream),
            },
            text_only: AtomicBool::new(false),
        });
        Ok(Self { models: models.collect(), config, http })
    }

    /// The model that was asked for, or the default where any will do.
    fn model_for(&self, options: &TranscribeOptions) -> Result<&Model, EngineError> {
        let refuse = |message: String| EngineError::new(FailureKind::UnsupportedOption, message);
        let named = self.models.iter().find(|model| model.info.name == options.model);
        let model = named.or_else(|| self.models.first().filter(|_| options.any_model));
        let model = model.ok_or_else(|| {
            refuse(format!("provider `{}` has no model `{}`", self.config.provider, options.model))
        })?;
        model.info.check(options).map_err(|error| refuse(error.to_string()))?;
        if options.words && options.task == Task::Translate {
            return Err(refuse("the `openai` engine gives no times of words in translations".to_owned()));
        }
        if options.diarize {
            return Err(refuse("the `openai` engine cannot tell speakers apart".to_owned()));
        }
        Ok(model)
    }

    /// What is heard in a piece. A model that gives no times is asked again for what it has.
    async fn hear(&self, ask: Ask<'_>, piece: SpeechSpan) -> Result<Heard, EngineError> {
        if !ask.model.text_only.load(Ordering::Relaxed) {
            match self.ask(ask, piece, Format::VerboseJson).await {
                Err(error) if failure::is_of_the_format(&error) => {
                    tracing::info!(
                        provider = %self.config.provider,
                        model = %ask.model.config.upstream,
                        "the model refuses `verbose_json`; from now on it is asked for text alone"
                    );
                    ask.model.text_only.store(true, Ordering::Relaxed);
                }
                heard => return heard,
            }
        }
        if ask.request.options.words {
            let message = format!("model `{}` gives no times of words", ask.model.info.name);
            return Err(EngineError::new(FailureKind::UnsupportedOption, message));
        }
        self.ask(ask, piece, Format::Json).await
    }

    async fn ask(&self, ask: Ask<'_>, piece: SpeechSpan, format: Format) -> Result<Heard, EngineError> {
        if ask.sent.swap(true, Ordering::Relaxed)
            && let Some(pace) = &ask.request.pace
        {
            let turn = ask.cancel.run_until_cancelled(pace.another_request()).await;
            turn.ok_or_else(|| EngineError::new(FailureKind::Cancelled, "the work was stopped"))??;
        }
        let request = request::build(&self.config, &self.http, ask, piece, format)?;
        let bounds = Bounds {
            timeout: self.config.timeout(piece.samples()),
            answer_bytes: ANSWER_BYTES,
            cancel: ask.cancel,
        };
        let answer = http::call(request, bounds).await?;
        if !answer.is_success() {
            return Err(failure::of(&answer, &self.config.provider));
        }
        answer::read(&answer, ask.request, piece)
    }
}

#[async_trait]
impl SpeechEngine for OpenAiEngine {
    fn name(&self) -> &str {
        OPENAI
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            models: self.models.iter().map(|model| model.info.clone()).collect(),
            concurrency: self.config.concurrency.get(),
            max_duration: self.config.max_duration,
        }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let model = self.model_for(&request.options)?;
        let ask = Ask { request: &request, model, cancel: &cancel, sent: &AtomicBool::new(false) };
        observer.billed(Duration::ZERO);
        let mut progress = Progress::begin(&request, &model.info.revision, self.config.piece_samples());
        while let Some(piece) = progress.next(&request, &cancel).await? {
            if !progress.is_spoken_in(&request, piece) {
                progress.add(piece, Heard::default(), observer.as_ref());
                continue;
            }
            match self.hear(ask, piece).await {
                Ok(heard) => {
                    observer.billed(Duration::from_millis(piece.samples() / SAMPLES_PER_MS));
                    progress.add(piece, heard, observer.as_ref());
                }
                // Its own limit is lower than ours for it.
                Err(error) if failure::is_too_large(&error) && progress.cut_smaller(piece) => {
                    tracing::warn!(
                        provider = %self.config.provider,
                        samples = piece.samples(),
                        "the provider refuses files of this length: set `max_file_mb` lower; trying shorter ones"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(progress.finish(&request, &model.info.name))
    }
}
