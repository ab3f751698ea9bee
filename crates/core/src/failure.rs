//! Why a job failed, in a closed set: each kind has a stable code for clients and a rule for what happens next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The kinds of failure of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The audio is empty, truncated, malformed or over a limit.
    BadAudio,
    /// The content is none of the supported formats.
    UnsupportedMedia,
    /// The engine or model cannot do what the options ask.
    UnsupportedOption,
    /// The uploaded audio is gone.
    AudioMissing,
    /// The job was cancelled while it ran.
    Cancelled,
    /// A provider asked us to slow down; the attempt is refunded.
    Throttled,
    /// No engine could take the job right now; the attempt is refunded.
    EngineUnavailable,
    /// The engine failed in a way that may not happen again.
    EngineFailed,
    /// The attempt took too long.
    TimedOut,
    /// The code that worked on the job panicked.
    Panicked,
    /// Reading the audio or writing the result failed.
    StorageUnavailable,
    /// The worker vanished while it worked on the job.
    WorkerLost,
    /// The job reached its deadline or its greatest age.
    Expired,
    /// A bug of ours.
    Internal,
}

impl FailureKind {
    /// The stable code that clients see.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadAudio => "bad_audio",
            Self::UnsupportedMedia => "unsupported_media",
            Self::UnsupportedOption => "unsupported_option",
            Self::AudioMissing => "audio_missing",
            Self::Cancelled => "cancelled",
            Self::Throttled => "throttled",
            Self::EngineUnavailable => "engine_unavailable",
            Self::EngineFailed => "engine_failed",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::StorageUnavailable => "storage_unavailable",
            Self::WorkerLost => "worker_lost",
            Self::Expired => "expired",
            Self::Internal => "internal",
        }
    }

    /// Whether another attempt on the same audio can end differently.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::BadAudio
            | Self::UnsupportedMedia
            | Self::UnsupportedOption
            | Self::Cancelled
            | Self::Expired => false,
            // Another worker may find it.
            Self::AudioMissing
            | Self::Throttled
            | Self::EngineUnavailable
            | Self::EngineFailed
            | Self::TimedOut
            | Self::Panicked
            | Self::StorageUnavailable
            | Self::WorkerLost
            | Self::Internal => true,
        }
    }
}

/// The failure of one attempt, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// For the client: what happened and what to do, nothing internal.
    pub message: String,
    /// When the engine asked to be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

impl JobFailure {
    /// A failure of `kind` with a message for the client.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}
