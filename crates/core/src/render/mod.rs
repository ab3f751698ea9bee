//! Transcripts as clients want to read them. Pure functions: one transcript, many formats.

mod json;
mod subtitles;

use crate::transcript::Transcript;

/// The formats in which a transcript can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TranscriptFormat {
    /// Text, language, duration and segments.
    #[default]
    Json,
    /// Plain text.
    Text,
    /// SubRip.
    Srt,
    /// WebVTT.
    Vtt,
    /// OpenAI's `verbose_json`.
    VerboseJson,
    /// Start and end in milliseconds and the text, separated by tabs, as whisper's command line writes it.
    Tsv,
}

impl TranscriptFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Json, Self::Text, Self::Srt, Self::Vtt, Self::VerboseJson, Self::Tsv];

    /// The name used in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::VerboseJson => "verbose_json",
            Self::Tsv => "tsv",
        }
    }

    /// From the name used in requests.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// The media type of a body in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::VerboseJson => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Srt => "application/x-subrip; charset=utf-8",
            Self::Vtt => "text/vtt; charset=utf-8",
            Self::Tsv => "text/tab-separated-values; charset=utf-8",
        }
    }

    /// The usual file extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json | Self::VerboseJson => "json",
            Self::Text => "txt",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Tsv => "tsv",
        }
    }
}

/// The transcript in this format. `words` says whether `verbose_json` and `json` carry word times.
pub fn render(transcript: &Transcript, format: TranscriptFormat, words: bool) -> String {
    match format {
        TranscriptFormat::Json => json::native(transcript, words),
        TranscriptFormat::VerboseJson => json::verbose(transcript, words),
        TranscriptFormat::Text => format!("{}\n", transcript.text()),
        TranscriptFormat::Srt => subtitles::srt(transcript),
        TranscriptFormat::Vtt => subtitles::vtt(transcript),
        TranscriptFormat::Tsv => subtitles::tsv(transcript),
    }
}

pub use json::{segment, usage_secs};
