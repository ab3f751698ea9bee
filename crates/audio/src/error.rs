//! What can be wrong with an upload, in words that its sender can act on.

use verbatim_core::audio::SAMPLE_RATE;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::{ErrorKind, PortError};

/// Why audio could not be decoded or searched for speech. `Display` is for clients: what is wrong and what to do,
/// nothing internal.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The upload has no bytes.
    #[error("the file is empty; upload an audio file")]
    Empty,
    /// The content is not audio, or audio in a format or codec that is not supported.
    #[error(
        "{what} is not supported; upload wav, flac, mp3, ogg (vorbis, opus), m4a/mp4/aac (AAC-LC, ALAC) or \
         webm (opus, vorbis)"
    )]
    UnsupportedFormat {
        /// What it is instead, as far as it is known.
        what: String,
    },
    /// The content says that it is audio and then breaks the rules of its format.
    #[error("the audio is damaged or cut off ({reason}); export or record it again")]
    Malformed {
        /// The rule that is broken.
        reason: String,
    },
    /// A piece of a recording that cannot be heard without the piece before it.
    #[error(
        "the beginning of the stream is missing, which tells how to decode the rest; upload the recording from its \
         beginning, with the pieces joined in order"
    )]
    NoBeginning,
    /// A container without an audio track.
    #[error("the file has no audio track; upload one that has sound")]
    NoAudioTrack,
    /// Well-formed audio of no length.
    #[error("the audio has a header but no samples; upload a recording that is not empty")]
    NoSamples,
    /// Longer than the limit.
    #[error("the audio is longer than {limit_secs} seconds; split it and upload the parts")]
    TooLong {
        /// The limit, in seconds.
        limit_secs: u64,
    },
    /// Longer than so few bytes can plausibly be.
    #[error(
        "the audio lasts longer than {limit_secs} seconds, which is not plausible for a file of {bytes} bytes; export or \
         record it again"
    )]
    Implausible {
        /// What is plausible for that size, in seconds.
        limit_secs: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// Decoding takes more processor time than its length and size explain.
    #[error(
        "decoding the audio takes far more processor time than audio of its size and length should; export or record it \
         again"
    )]
    TooCostly,
    /// More channels than the limit.
    #[error("the audio has {channels} channels and at most {limit} are accepted; mix it down first")]
    TooManyChannels {
        /// Channels in the file.
        channels: usize,
        /// Most channels accepted.
        limit: u16,
    },
    /// A sampling rate that no recording of speech has.
    #[error(
        "a sampling rate of {rate} Hz is not supported; resample to {lowest}-{highest} Hz, such as {}",
        SAMPLE_RATE
    )]
    BadSampleRate {
        /// Rate that the file states, in Hz.
        rate: u32,
        /// Lowest rate accepted.
        lowest: u32,
        /// Highest rate accepted.
        highest: u32,
    },
    /// The token was cancelled.
    #[error("the work on this audio was cancelled")]
    Cancelled,
    /// Reading the source or writing the scratch file failed; the kind tells a full disk from the rest.
    #[error(
        "the audio could not be read or buffered for a reason that is not in the file; it will be tried again"
    )]
    Storage(#[source] PortError),
    /// A bug of ours.
    #[error("the audio could not be converted because of an internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AudioError {
    /// The kind of failure of a job whose audio ends in this error.
    pub fn failure_kind(&self) -> FailureKind {
        match self {
            Self::UnsupportedFormat { .. } => FailureKind::UnsupportedMedia,
            Self::Cancelled => FailureKind::Cancelled,
            Self::Storage(_) => FailureKind::StorageUnavailable,
            Self::Internal(_) => FailureKind::Internal,
            Self::Empty
            | Self::Malformed { .. }
            | Self::NoAudioTrack
            | Self::NoSamples
            | Self::TooLong { .. }
            | Self::NoBeginning
            | Self::Implausible { .. }
            | Self::TooCostly
            | Self::TooManyChannels { .. }
            | Self::BadSampleRate { .. } => FailureKind::BadAudio,
        }
    }

    /// Whether the scratch disk is full: an operator has to make room, the audio is not to blame.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind() == ErrorKind::OutOfSpace)
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::UnsupportedFormat { what: what.into() }
    }

    pub(crate) fn no_beginning() -> Self {
        Self::NoBeginning
    }

    pub(crate) fn io(doing: &str, error: std::io::Error) -> Self {
        Self::Storage(PortError::from_io(doing, error))
    }
}

impl From<AudioError> for JobFailure {
    fn from(error: AudioError) -> Self {
        Self::new(error.failure_kind(), error.to_string())
    }
}
