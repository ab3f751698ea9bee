//! What watchers of a job are told, in order.

use serde::{Deserialize, Serialize};

use crate::failure::JobFailure;
use crate::time::Timestamp;
use crate::transcript::Segment;

/// The place of an event in its job's stream; rises by at least one with each event. Clients resume with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

/// What lies between the numbers of two segments of an attempt, one behind the other: room for everything else that may
/// happen between them. So the numbers of segments follow from that of the first one, and need not be kept.
pub const SEGMENT_STRIDE: u64 = 1 << 20;

/// The number of the segment of this index, where that of index 0 is `first`.
pub fn segment_seq(first: EventSeq, index: u32) -> EventSeq {
    EventSeq(first.0.saturating_add(SEGMENT_STRIDE.saturating_mul(u64::from(index))))
}

/// What a worker is doing with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for a worker.
    Queued,
    /// Fetching the audio.
    Fetching,
    /// Decoding the audio and looking for speech.
    Decoding,
    /// An engine is at work.
    Transcribing,
    /// Writing the result.
    Storing,
    /// Over.
    Done,
}

impl Stage {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Fetching => "fetching",
            Self::Decoding => "decoding",
            Self::Transcribing => "transcribing",
            Self::Storing => "storing",
            Self::Done => "done",
        }
    }
}

/// One event of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Its place in the stream.
    pub seq: EventSeq,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// It waits for a worker (again, when `attempt` is not 0).
    Queued {
        /// Attempts made so far.
        attempt: u32,
    },
    /// A worker took it; or the transcript turned out to have other segments than the attempt has reported, which are told
    /// next. Segments that came before no longer count.
    Started {
        /// The number of this attempt, from 1.
        attempt: u32,
    },
    /// It got further.
    Progress {
        /// 0 to 1.
        progress: f32,
        /// What the worker is doing.
        stage: Stage,
    },
    /// A segment was decoded. Behind each [`Self::Started`], indices rise from 0.
    Segment {
        /// The attempt it belongs to.
        attempt: u32,
        /// The segment.
        segment: Segment,
    },
    /// Segments that are no events any more, because the job is completed: the first `count` of its transcript. They have
    /// the numbers that they had, [`segment_seq`] of `first`; this event has that of the last of them. The API puts the
    /// segments in its place, so that no client ever sees it.
    Transcribed {
        /// The attempt that decoded them.
        attempt: u32,
        /// The number of the first.
        first: EventSeq,
        /// How many they are.
        count: u32,
    },
    /// The result is there. Last event.
    Completed,
    /// It failed for good. Last event.
    Failed {
        /// Why.
        failure: JobFailure,
    },
    /// It was cancelled. Last event.
    Cancelled,
}

impl EventKind {
    /// The name under which clients see it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Started { .. } => "started",
            Self::Progress { .. } => "progress",
            Self::Segment { .. } => "segment",
            Self::Transcribed { .. } => "transcribed",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing can follow.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. } | Self::Cancelled)
    }
}
