//! What a client may ask of a transcription.

use serde::{Deserialize, Serialize};

use crate::language::Language;

/// Transcribe in the language spoken, or translate into English.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Write down what is said.
    #[default]
    Transcribe,
    /// Write down in English what is said.
    Translate,
}

impl Task {
    /// The lower-case name, as in Whisper's prompt token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
        }
    }
}

/// How urgent a job is; tiers share the workers 64 : 8 : 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Somebody is waiting; the OpenAI routes use it.
    High,
}

impl Priority {
    /// Every tier, the strongest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The tier's share of the workers while every tier has work.
    pub fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 8,
            Self::High => 64,
        }
    }

    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Everything that changes the words of a transcript; never how they are rendered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscribeOptions {
    /// Name of the engine asked for; `auto` lets the service choose.
    pub engine: String,
    /// Name of the model, resolved: never empty, never an alias.
    pub model: String,
    /// Whether the client named no model and the service has several engines: each answers with its own default, and
    /// `model` is only the likeliest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_model: bool,
    /// The language spoken; detected when absent.
    pub language: Option<Language>,
    /// Transcribe or translate.
    pub task: Task,
    /// Text that precedes the audio: names, spelling, style.
    pub prompt: Option<String>,
    /// Sampling temperature, 0 to 1. 0 means automatic: greedy first, warmer when that fails.
    pub temperature: f32,
    /// Whether words get times of their own.
    pub words: bool,
    /// Whether stretches without speech are skipped.
    pub vad: bool,
    /// Whether speakers are told apart.
    pub diarize: bool,
}

/// The longest prompt accepted, in characters. Whisper uses its last 223 tokens.
pub const MAX_PROMPT_CHARS: usize = 4_000;

/// The name that lets the service choose an engine.
pub const ENGINE_AUTO: &str = "auto";

impl TranscribeOptions {
    /// The defaults for a model: any engine, language detected, voice activity on.
    pub fn for_model(model: impl Into<String>) -> Self {
        Self {
            engine: ENGINE_AUTO.to_owned(),
            model: model.into(),
            any_model: false,
            language: None,
            task: Task::Transcribe,
            prompt: None,
            temperature: 0.0,
            words: false,
            vad: true,
            diarize: false,
        }
    }
}
