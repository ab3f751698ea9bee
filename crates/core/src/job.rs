//! Jobs (the work) and submissions (what clients hold).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audio::{AudioInfo, Findings};
use crate::dedupe::DedupeKey;
use crate::event::Stage;
use crate::failure::JobFailure;
use crate::ids::{ClaimNonce, Fence, JobId, SubmissionId, TenantId};
use crate::options::{Priority, TranscribeOptions};
use crate::ports::blobs::BlobKey;
use crate::ports::engine::Checkpoint;
use crate::time::Timestamp;
use crate::trace::TraceParent;

/// Where a job is. Each job is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// Waits for its time.
    Delayed,
    /// A worker holds a lease on it.
    Running,
    /// Its result can be fetched.
    Completed,
    /// A dead letter.
    Failed,
    /// Nobody wants it any more.
    Cancelled,
}

impl JobState {
    /// Whether nothing will happen to it any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delayed => "delayed",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// From the name that [`Self::as_str`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Delayed, Self::Running, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What a client sees of its submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubmissionStatus {
    /// Waits.
    Queued,
    /// A worker is on it.
    Processing,
    /// The transcript is there.
    Completed,
    /// It failed for good.
    Failed,
    /// This client (or every client) cancelled.
    Cancelled,
}

impl SubmissionStatus {
    /// Whether nothing will happen to it any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// From the name that [`Self::as_str`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

impl From<JobState> for SubmissionStatus {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued | JobState::Delayed => Self::Queued,
            JobState::Running => Self::Processing,
            JobState::Completed => Self::Completed,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

/// The client's own name for a request, so that repeating it does nothing twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The `Idempotency-Key` header.
    pub key: String,
    /// What identifies the request's body; the same key with another one is a conflict.
    pub body_digest: String,
}

/// How much of the service one tenant may take up. In force is, field by field, the strictest of those that
/// [`crate::ports::JobAdmin::set_caps`] set and those of the newest submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TenantCaps {
    /// Jobs of the tenant that may run at once; `None` for no cap.
    pub max_running: Option<u64>,
    /// Jobs of the tenant that may wait (queued and delayed) before new work is throttled; `None` for no cap.
    pub max_queued: Option<u64>,
}

impl TenantCaps {
    /// Field by field the stricter one.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        let Self { max_running, max_queued } = other;
        Self {
            max_running: self.max_running.into_iter().chain(max_running).min(),
            max_queued: self.max_queued.into_iter().chain(max_queued).min(),
        }
    }
}

/// A submission on its way into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSubmission {
    /// The ticket, drawn by the caller: submitting it again after a timeout changes nothing.
    pub id: SubmissionId,
    /// The job that is made, unless this submission attaches to another.
    pub job_id: JobId,
    /// Who submits.
    pub tenant: TenantId,
    /// What is asked for.
    pub options: TranscribeOptions,
    /// What makes two submissions the same work.
    pub dedupe_key: DedupeKey,
    /// What arrived.
    pub audio: AudioInfo,
    /// Where it lies. Owned by `job_id` alone.
    pub blob: BlobKey,
    /// How urgent it is.
    pub priority: Priority,
    /// So long after it is submitted, by the store's clock, it is not worth doing any more.
    pub deadline: Option<Duration>,
    /// Seconds of audio that fairness charges until the job is settled.
    pub estimated_secs: u64,
    /// What the tenant may take up.
    pub caps: TenantCaps,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// The client's name for this request.
    pub idempotency: Option<Idempotency>,
    /// What submits it, where that is traced; kept by the job that is made.
    pub trace: Option<TraceParent>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitOutcome {
    /// The submission as it now stands.
    pub submission: Submission,
    /// Whether the uploaded blob belongs to a job now. When not, the caller deletes its upload.
    pub blob_adopted: bool,
    /// Whether this call repeats one that was answered before.
    pub replayed: bool,
}

/// A submission and the state of its job, as a client may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The ticket.
    pub id: SubmissionId,
    /// The job it points at; not for clients.
    pub job_id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it is.
    pub status: SubmissionStatus,
    /// 0 to 1.
    pub progress: f32,
    /// What the worker is doing.
    pub stage: Stage,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When a worker first took the job.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Jobs ahead of it, while queued.
    pub queue_position: Option<u64>,
    /// What it waits for, while queued: no worker that is there can do it.
    pub waiting_for: Option<String>,
    /// Attempts made so far.
    pub attempt: u32,
    /// The engine that did the work; the one asked for until then.
    pub engine: String,
    /// What was asked for; once completed, its model is the one that answered.
    pub options: TranscribeOptions,
    /// How urgent it is.
    pub priority: Priority,
    /// What was uploaded.
    pub audio: AudioInfo,
    /// Whether a finished result answered it at once.
    pub cached: bool,
    /// Whether it attached to work that was already under way.
    pub deduplicated: bool,
    /// Why it failed.
    pub failure: Option<JobFailure>,
    /// Where the result lies, once completed.
    pub result: Option<BlobKey>,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
}

/// What a worker gets to work on.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Which lease this is; every later call presents it.
    pub token: LeaseToken,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Whose job it is.
    pub tenant: TenantId,
    /// What to do.
    pub options: TranscribeOptions,
    /// What was uploaded.
    pub audio: AudioInfo,
    /// Where it lies.
    pub blob: BlobKey,
    /// When the job was first submitted.
    pub submitted_at: Timestamp,
    /// Where an earlier attempt got to.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the job wants to be worked on alone, because a worker crashed with it.
    pub alone: bool,
    /// What submitted the job, where that was traced.
    pub trace: Option<TraceParent>,
}

/// What identifies one lease: job, fence and the nonce of the claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// The job.
    pub job_id: JobId,
    /// The number of the lease.
    pub fence: Fence,
    /// The nonce of the claim that gave it.
    pub nonce: ClaimNonce,
}

/// What a worker reports while it works.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// 0 to 1 and what is being done, when that changed.
    pub progress: Option<(f32, Stage)>,
    /// Segments decoded since the last report.
    pub segments: Vec<crate::transcript::Segment>,
    /// From where another worker could go on.
    pub checkpoint: Option<Checkpoint>,
}

/// What a worker says when it is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Where the result lies.
    pub result: BlobKey,
    /// Length of the audio; settles the estimate.
    pub duration_ms: u64,
    /// What was noticed in it.
    pub findings: Findings,
    /// The engine that did the work.
    pub engine: String,
    /// The model that answered: the one asked for, unless the client left the choice to the service.
    pub model: String,
    /// Segments of the transcript. Watchers are told of those that no report brought too.
    pub segments: u32,
    /// Whether the transcript has other segments than the reports brought, as where another engine took over within the
    /// attempt: watchers are told that it started again, and all segments under new numbers.
    pub retold: bool,
}
