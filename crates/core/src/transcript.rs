//! What an engine heard. Times are integer milliseconds from the start of the audio.

use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::options::Task;

/// One word with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word with its punctuation; Whisper's words begin with the space that precedes them.
    pub text: String,
    /// When it begins.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
    /// How sure the engine is, 0 to 1.
    pub probability: f32,
}

/// One stretch of speech, as the engine cut it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Position in the transcript, from 0.
    pub index: u32,
    /// When it begins.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
    /// The text as the engine wrote it; Whisper's begins with a space.
    pub text: String,
    /// Words with times, when they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// Who speaks, when diarization was asked for and the engine can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Whisper's own figures; absent for engines that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
}

/// How Whisper arrived at a segment; the fields of OpenAI's `verbose_json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// First mel frame of the window (10 ms each).
    pub seek: u64,
    /// Token ids of the text, timestamps included.
    pub tokens: Vec<u32>,
    /// Sampling temperature that was accepted.
    pub temperature: f32,
    /// Mean log-probability per token.
    pub avg_logprob: f32,
    /// Length of the text's UTF-8 bytes over their zlib-compressed length.
    pub compression_ratio: f32,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
}

/// A whole transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// What was done: transcription or translation into English.
    pub task: Task,
    /// The language spoken.
    pub language: Language,
    /// How sure the engine is of the language, 0 to 1; 1 when it was given.
    pub language_probability: f32,
    /// Length of the audio.
    pub duration_ms: u64,
    /// Name of the engine.
    pub engine: String,
    /// Name of the model.
    pub model: String,
    /// Segments in order of time.
    pub segments: Vec<Segment>,
}

impl Transcript {
    /// The whole text: segments joined as written and trimmed at both ends.
    pub fn text(&self) -> String {
        let joined: String = self.segments.iter().map(|segment| segment.text.as_str()).collect();
        joined.trim().to_owned()
    }

    /// All words in order of time; empty unless words were asked for.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.segments.iter().flat_map(|segment| segment.words.iter())
    }
}
