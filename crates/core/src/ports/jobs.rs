//! The job store, split by who needs it, so that the API cannot lease a job by type. Every operation is one atomic step
//! and can be repeated after a timeout whose outcome is unknown.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::audio::AudioInfo;
use crate::caps::{AtCap, TenantUse};
use crate::class::{Abilities, JobClass};
use crate::error::PortError;
use crate::event::{EventSeq, JobEvent};
use crate::failure::JobFailure;
use crate::ids::{ClaimNonce, JobId, SubmissionId, TenantId, WorkerId};
use crate::job::{
    Completion, JobState, Lease, LeaseToken, NewSubmission, Report, Submission, SubmissionStatus,
    SubmitOutcome, TenantCaps,
};
use crate::options::{Priority, TranscribeOptions};
use crate::ports::blobs::BlobKey;
use crate::time::Timestamp;

/// The most jobs that one call touches.
pub const MAX_JOBS_PER_CALL: usize = 256;

/// The most blobs that one call touches: as many as S3 deletes at once.
pub const MAX_BLOBS_PER_CALL: usize = 1000;

/// Events of one submission, oldest first, ending after the terminal one.
pub type EventStream = BoxStream<'static, Result<JobEvent, PortError>>;

/// Which submissions to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Only those with this status.
    pub status: Option<SubmissionStatus>,
    /// Only those older than this one (the last of the page before).
    pub before: Option<SubmissionId>,
    /// At most so many; capped at [`MAX_JOBS_PER_CALL`].
    pub limit: usize,
}

/// A page of submissions, newest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    /// Those that were found.
    pub submissions: Vec<Submission>,
    /// Where to go on, when the search ended before the page was full: of a status that few have, one call finds what it
    /// finds among a few thousand submissions. `None` when there are no more, or the page is full.
    pub next: Option<SubmissionId>,
}

impl Listing {
    /// How many were found.
    pub fn len(&self) -> usize {
        self.submissions.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.submissions.is_empty()
    }
}

/// What a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// It had not ended: it is cancelled now.
    Cancelled,
    /// It had ended: it is gone, and audio and result with it if it was the last.
    Removed,
}

/// For those who submit and watch.
#[async_trait]
pub trait JobClient: Send + Sync {
    /// Adds a submission: makes a job, attaches to a live one with the same dedupe key, or answers from a finished one.
    ///
    /// # Errors
    /// `Conflict` when the idempotency key was used with another body; `Throttled` over the tenant's cap or that of the
    /// whole queue, where work that is there already can still be attached to, or over the tenant's share of what is
    /// remembered; `OutOfSpace`, or a definite `Unavailable`, when the store is full.
    async fn submit(&self, submission: NewSubmission) -> Result<SubmitOutcome, PortError>;

    /// What was answered to this idempotency key, if it is still remembered.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn find_idempotent(
        &self,
        tenant: &TenantId,
        key: &str,
    ) -> Result<Option<(Submission, String)>, PortError>;

    /// One submission of this tenant; `None` for what does not exist or belongs to another.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn get(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError>;

    /// Submissions of this tenant, newest first, within a bound on how many are looked at.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn list(&self, tenant: &TenantId, query: ListQuery) -> Result<Listing, PortError>;

    /// Cancels a submission that has not ended; removes one that has. Never touches another's; the job goes with its
    /// last submission. `None` when there is no such submission.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn delete(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<DeleteOutcome>, PortError>;

    /// Cancels a submission that has not ended and leaves an ended one alone.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn cancel(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError>;

    /// Whether a worker that is there can do jobs of this class.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn is_served(&self, class: &JobClass) -> Result<bool, PortError>;

    /// Says that the result of this submission's job is gone although it should be there: from now on the job answers no
    /// submission of the same work, which is new work then. Nothing happens when the job has another result by now.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn result_lost(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        result: &BlobKey,
    ) -> Result<(), PortError>;

    /// The events of a submission after `after`, those of the past first, then as they happen, until it has ended. When
    /// old events are gone, a snapshot stands in for them: the stream always shows the terminal state. `None` when
    /// there is no such submission.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn events(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        after: Option<EventSeq>,
    ) -> Result<Option<EventStream>, PortError>;
}

/// A request for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// Names this claim: repeating it returns the same lease, while that is held.
    pub nonce: ClaimNonce,
    /// Whether the worker holds no other job, and so may take one that must run alone.
    pub idle: bool,
    /// How long the lease lasts unless renewed.
    pub lease: Duration,
    /// What the worker can do now; it gets nothing else.
    pub abilities: Abilities,
}

/// What became of a lease on renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Still ours, until then.
    Held {
        /// The new end.
        expires_at: Timestamp,
    },
    /// Still ours, but the job is to be cancelled: stop and [`JobLeases::fail`] it as cancelled.
    CancelRequested,
    /// No longer ours: stop and publish nothing.
    Lost,
}

/// What a finish did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The job is in this state now (also when this very call was made before).
    Done(JobState),
    /// Another lease has been given since, or the job has ended: nothing was changed. Whoever has written a result
    /// under this lease deletes it.
    Stale,
}

/// For those who work.
#[async_trait]
pub trait JobLeases: Send + Sync {
    /// A lease on one queued job, by tier and tenant as DESIGN says. `None` when there is nothing for this worker.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn claim(&self, request: ClaimRequest) -> Result<Option<Lease>, PortError>;

    /// Waits until there may be work: a hint that can be wrong in both directions, so callers also poll.
    async fn work_may_be_there(&self);

    /// Extends leases; the answers are in the order of the tokens.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_JOBS_PER_CALL`]; else `Unavailable`, `OutOfSpace` and `Internal`.
    async fn renew(&self, tokens: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, PortError>;

    /// Records progress, segments and a checkpoint under the fence. `false` when the lease is no longer the current
    /// one: nothing was changed. Segments up to the highest index reported in this attempt are skipped, so that a report
    /// can be repeated. Watchers start over with each attempt: a worker that goes on from a checkpoint reports the
    /// checkpoint's segments first.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn report(&self, token: &LeaseToken, report: Report) -> Result<bool, PortError>;

    /// Publishes the result. Of all results of a job, only that of the current fence is ever published. A job whose
    /// cancellation was asked for ends as cancelled all the same, and the store lists the result for deletion.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn complete(&self, token: &LeaseToken, completion: Completion) -> Result<Finish, PortError>;

    /// Ends the attempt: the job is delayed and tried again, or becomes a dead letter, as [`crate::retry`] says;
    /// cancelled when cancellation was asked for.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn fail(&self, token: &LeaseToken, failure: JobFailure) -> Result<Finish, PortError>;

    /// Gives the job back unfinished, at the head of its queue; the attempt does not count.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn release(&self, token: &LeaseToken) -> Result<Finish, PortError>;
}

/// What a round of upkeep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TickReport {
    /// Delayed jobs whose time had come.
    pub promoted: u64,
    /// Leases that had lapsed.
    pub lapsed: u64,
    /// Jobs that became dead letters, by crashes, deadline or age.
    pub failed: u64,
    /// Ended jobs and submissions that were forgotten.
    pub expired: u64,
    /// Lapsed leases that were given one more lease, because the store had been away.
    pub extended: u64,
    /// How long nobody had ticked, where that was longer than a few intervals: the store was out of reach (stopped, cut
    /// off, its process frozen), or its clock was put forward.
    pub away: Option<Duration>,
    /// Leases that had been taken back from workers that turned out to live, since the tick before: what had been counted
    /// against their jobs was taken back.
    pub revived: u64,
    /// Whether another node ticks for the cluster, and this call did nothing.
    pub elsewhere: bool,
    /// Records that could not be read: they are left as they are, and looked at again later.
    pub unreadable: u64,
}

impl TickReport {
    /// Whether there may be more to do at once: a round that did something may have met its bound.
    pub fn did_something(&self) -> bool {
        let Self {
            promoted,
            lapsed,
            failed,
            expired,
            extended,
            away: _,
            revived: _,
            elsewhere: _,
            unreadable: _,
        } = *self;
        promoted + lapsed + failed + expired + extended > 0
    }

    /// Adds what another round did.
    pub fn add(&mut self, other: Self) {
        let Self { promoted, lapsed, failed, expired, extended, away, revived, elsewhere, unreadable } =
            other;
        self.promoted += promoted;
        self.lapsed += lapsed;
        self.failed += failed;
        self.expired += expired;
        self.extended += extended;
        self.away = self.away.max(away);
        self.revived += revived;
        self.elsewhere |= elsewhere;
        self.unreadable += unreadable;
    }
}

/// Which blobs to take for deletion, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GarbageRequest {
    /// At most so many; capped at [`MAX_BLOBS_PER_CALL`].
    pub most: usize,
    /// How long a blob has been needed by no job before it is due, so that a store that comes back without its last moments
    /// still finds what they deleted. What a client or an operator removed itself is due at once.
    pub grace: Duration,
    /// How long those that are taken for the first time belong to who took them.
    pub hold: Duration,
}

/// The longest hold of a blob is its first one, times so much.
pub const LONGEST_HOLD: u32 = 64;

/// What a blob is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobFate {
    /// A live job, a dead letter or a kept result refers to it, or the holder of a lease may be writing it now.
    Needed,
    /// It is listed for deletion.
    ToBeDeleted,
    /// Nothing refers to it.
    Unknown,
}

/// The queue in figures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueStats {
    /// Waiting jobs of each tier and the age of the oldest.
    pub tiers: Vec<TierStats>,
    /// Jobs by state.
    pub states: Vec<(JobState, u64)>,
    /// Submissions that are remembered.
    pub submissions: u64,
    /// The most that may be; `None` for no limit.
    pub max_submissions: Option<u64>,
    /// Tenants of which any are remembered.
    pub holders: u64,
    /// Workers that claimed or renewed within the last lease.
    pub workers: u64,
    /// Blobs listed for deletion.
    pub garbage: u64,
    /// Queued jobs that must run alone.
    pub isolated: u64,
    /// Classes of queued jobs that none of these workers can do, and how many jobs each has.
    pub unserved: Vec<(JobClass, u64)>,
}

/// One tier of the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TierStats {
    /// Which.
    pub priority: Priority,
    /// Jobs waiting.
    pub depth: u64,
    /// How long the oldest has waited.
    pub oldest_age: Duration,
}

/// A job that failed for good, as operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The job.
    pub job_id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The submissions that wait for it or were told that it failed; at most [`MAX_JOBS_PER_CALL`] of them.
    pub submissions: Vec<SubmissionId>,
    /// Why it failed.
    pub failure: JobFailure,
    /// Attempts made.
    pub attempts: u32,
    /// Crashes of workers while they held only this job.
    pub crashes: u32,
    /// When the job was made.
    pub created_at: Timestamp,
    /// When it failed.
    pub failed_at: Timestamp,
    /// When it will be forgotten, its audio with it.
    pub expires_at: Timestamp,
    /// What was asked for.
    pub options: TranscribeOptions,
    /// What was uploaded.
    pub audio: AudioInfo,
}

/// Which dead letters to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterQuery {
    /// Only those of this tenant.
    pub tenant: Option<TenantId>,
    /// Only those that failed before this one (the last of the page before).
    pub before: Option<JobId>,
    /// At most so many; capped at [`MAX_JOBS_PER_CALL`].
    pub limit: usize,
}

/// A page of dead letters, the latest failure first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeadLetterPage {
    /// Those that were found.
    pub letters: Vec<DeadLetter>,
    /// Where to go on, when the search ended before the page was full: of a tenant that has few, one call finds what it
    /// finds among a few thousand dead letters. `None` when there are no more, or the page is full.
    pub next: Option<JobId>,
}

/// For operators.
#[async_trait]
pub trait JobAdmin: Send + Sync {
    /// Dead letters, the latest failure first, within a bound on how many are looked at.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<DeadLetterPage, PortError>;

    /// Queues a dead letter afresh: attempts and crashes start from nothing and its greatest age counts from now, but
    /// one that was given up for crashes still runs alone. Its watchers' story starts over. `false`, and nothing
    /// changed, when there is no such dead letter (any more).
    ///
    /// # Errors
    /// `Conflict` when the same work is under way or done in another job, or nobody waits for it any more; else
    /// `Unavailable`, `OutOfSpace` and `Internal`.
    async fn redrive(&self, id: &JobId) -> Result<bool, PortError>;

    /// Forgets a dead letter with its submissions and lists its audio for deletion. `false` when there is none.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn discard_dead_letter(&self, id: &JobId) -> Result<bool, PortError>;

    /// These caps are in force for these tenants from now on, whatever submissions bring: a submission may be stricter, and then
    /// counts until the next one, never laxer. Running jobs go on; queued ones beyond a cap do not begin. Answers how many of
    /// these tenants are at their caps.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_TENANTS_PER_CALL`](crate::caps::MAX_TENANTS_PER_CALL); else `Unavailable`, `OutOfSpace`
    /// and `Internal`.
    async fn set_caps(&self, caps: &[(TenantId, TenantCaps)]) -> Result<AtCap, PortError>;

    /// What these tenants take up, in their order; zeros for one of which nothing is known.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_TENANTS_PER_CALL`](crate::caps::MAX_TENANTS_PER_CALL); else `Unavailable` and `Internal`.
    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError>;
}

/// For those who keep the store in order.
#[async_trait]
pub trait JobUpkeep: Send + Sync {
    /// One bounded round: promotes what is due, takes back lapsed leases, ends what is over its age, forgets what has
    /// expired. Any node may call it at any time; one node at a time ticks for all of them, and the calls of the others do
    /// nothing ([`TickReport::elsewhere`]) until it has been silent for a moment.
    ///
    /// After a gap between ticks no lease is taken back until its holder had a whole lease in which to renew it: while the
    /// store is away nobody can, so a lease that lapsed then says nothing about its worker.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn tick(&self) -> Result<TickReport, PortError>;

    /// Says that this node ticks no more. If it was the one that ticks for all, another one takes over at once, before the gap
    /// looks like an outage. A store that only one process has needs none of this.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn hand_over(&self) -> Result<(), PortError> {
        Ok(())
    }

    /// Takes blobs that are due for deletion: nobody else is given them for a while. They stay listed until
    /// [`Self::blobs_deleted`] confirms that they are gone; what is not confirmed is given again once its hold is over, and
    /// each time is held for twice as long as the last, so that one that cannot be deleted stands in no other's way.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn take_garbage(&self, request: GarbageRequest) -> Result<Vec<BlobKey>, PortError>;

    /// Confirms that these blobs are gone.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_BLOBS_PER_CALL`]; else `Unavailable`, `OutOfSpace` and `Internal`.
    async fn blobs_deleted(&self, keys: &[BlobKey]) -> Result<(), PortError>;

    /// What these blobs are to the store, in their order.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_BLOBS_PER_CALL`]; else only `Unavailable` and `Internal`.
    async fn fates(&self, keys: &[BlobKey]) -> Result<Vec<BlobFate>, PortError>;

    /// The queue in figures.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn stats(&self) -> Result<QueueStats, PortError>;

    /// Whether the store answers.
    ///
    /// # Errors
    /// `Unavailable` when it does not.
    async fn ping(&self) -> Result<(), PortError>;
}
