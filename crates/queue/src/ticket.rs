//! A submission and the view of it and its job that clients get: the same whatever store keeps them.

use std::collections::BTreeMap;

use verbatim_core::audio::AudioInfo;
use verbatim_core::class::JobClass;
use verbatim_core::event::{EventKind, EventSeq, JobEvent, Stage};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{JobState, Submission, SubmissionStatus};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::ports::BlobKey;
use verbatim_core::time::Timestamp;

/// A submission as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) id: SubmissionId,
    pub(crate) tenant: TenantId,
    pub(crate) created_at: Timestamp,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) cached: bool,
    pub(crate) deduplicated: bool,
    pub(crate) first_seq: u64,
    pub(crate) ended: Option<Ended>,
}

/// How a submission ended apart from its job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) how: EndedHow,
    pub(crate) at: Timestamp,
    pub(crate) seq: u64,
}

/// Why a submission ended apart from its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedHow {
    /// Its client cancelled it.
    Cancelled,
    /// Its own deadline passed.
    Expired,
}

/// What a view shows of the job.
#[derive(Debug, Clone)]
pub(crate) struct JobFacts {
    pub(crate) id: JobId,
    pub(crate) state: JobState,
    pub(crate) tier: Priority,
    pub(crate) progress: f32,
    pub(crate) stage: Stage,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) attempt: u32,
    pub(crate) engine: String,
    /// The model that answered; `None` before, and for jobs of versions that did not write it down.
    pub(crate) model: Option<String>,
    pub(crate) options: TranscribeOptions,
    pub(crate) audio: AudioInfo,
    pub(crate) failure: Option<JobFailure>,
    pub(crate) result: Option<BlobKey>,
}

impl EndedHow {
    /// The lower-case name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    fn status(self) -> SubmissionStatus {
        match self {
            Self::Cancelled => SubmissionStatus::Cancelled,
            Self::Expired => SubmissionStatus::Failed,
        }
    }

    fn event(self) -> EventKind {
        match self {
            Self::Cancelled => EventKind::Cancelled,
            Self::Expired => EventKind::Failed { failure: missed_deadline() },
        }
    }
}

impl Ended {
    /// The last event of this submission's stream.
    pub(crate) fn event(self) -> JobEvent {
        JobEvent { seq: EventSeq(self.seq), at: self.at, kind: self.how.event() }
    }
}

impl Ticket {
    /// Where it is, its job being in this state.
    pub(crate) fn status(&self, job: JobState) -> SubmissionStatus {
        self.ended.map_or(SubmissionStatus::from(job), |ended| ended.how.status())
    }

    /// What its client sees; `unserved` when no worker that is there can do the job.
    pub(crate) fn view(self, job: JobFacts, queue_position: Option<u64>, unserved: bool) -> Submission {
        let created_at = self.created_at;
        let since_created = |time: Timestamp| time.max(created_at);
        let mut options = job.options;
        if let Some(model) = job.model {
            (options.model, options.any_model) = (model, false);
        }
        let failure = match self.ended.map(|ended| ended.how) {
            Some(EndedHow::Expired) => Some(missed_deadline()),
            Some(EndedHow::Cancelled) => None,
            None => job.failure,
        };
        let status = self.status(job.state);
        let waits = unserved && status == SubmissionStatus::Queued;
        Submission {
            status,
            waiting_for: waits.then(|| JobClass::of(&options).waits_for()),
            id: self.id,
            job_id: job.id,
            tenant: self.tenant,
            progress: job.progress,
            stage: if self.ended.is_some() { Stage::Done } else { job.stage },
            created_at,
            started_at: job.started_at.map(since_created),
            finished_at: self.ended.map(|ended| ended.at).or(job.finished_at.map(since_created)),
            queue_position: queue_position.filter(|_| self.ended.is_none()),
            attempt: job.attempt,
            engine: job.engine,
            options,
            priority: job.tier,
            audio: job.audio,
            cached: self.cached,
            deduplicated: self.deduplicated,
            failure,
            result: job.result.filter(|_| self.ended.is_none()),
            metadata: self.metadata,
        }
    }
}

/// What the client of a submission that was too late is told.
pub(crate) fn missed_deadline() -> JobFailure {
    JobFailure::new(FailureKind::Expired, "The deadline passed before the transcript was there.")
}

/// What ends a job that grew too old.
pub(crate) fn too_old() -> JobFailure {
    JobFailure::new(FailureKind::Expired, "The job reached its greatest age before it could be completed.")
}

/// What ends a job that kills workers.
pub(crate) fn worker_lost() -> JobFailure {
    JobFailure::new(
        FailureKind::WorkerLost,
        "The workers that took this job vanished while they worked on it; it is not tried again.",
    )
}
