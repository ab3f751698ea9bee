//! A store with a clock that only moves when told, predictable ids, and the calls that checks make most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use verbatim_core::audio::{AudioFormat, AudioInfo};
use verbatim_core::class::Abilities;
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::event::{EventKind, EventSeq, JobEvent};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{ClaimNonce, IdSource, JobId, SubmissionId, TenantId, WorkerId};
use verbatim_core::job::{
    Completion, JobState, Lease, LeaseToken, NewSubmission, Submission, SubmissionStatus, SubmitOutcome,
    TenantCaps,
};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::policy::{ISOLATED_AFTER, StorePolicy};
use verbatim_core::ports::jobs::{
    BlobFate, ClaimRequest, EventStream, Finish, GarbageRequest, ListQuery, MAX_BLOBS_PER_CALL, QueueStats,
    Renewal, TickReport,
};
use verbatim_core::ports::{BlobKey, JobClient, JobLeases, JobUpkeep};
use verbatim_core::time::{Clock, Timestamp};

use super::{Harness, Verdict, Violation, ensure};

/// Stands still until it is moved.
#[derive(Debug)]
pub struct VirtualClock(AtomicI64);

impl Default for VirtualClock {
    fn default() -> Self {
        Self(AtomicI64::new(1_700_000_000_000))
    }
}

impl VirtualClock {
    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

impl VirtualClock {
    /// Puts it back, as an operator may do with a real one.
    pub fn put_back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Ids that count, and a jitter of one half unless told otherwise.
#[derive(Debug)]
pub struct SeededIds {
    next: AtomicU64,
    jitter: Jitter,
}

/// Where jitter comes from.
#[derive(Debug)]
enum Jitter {
    Half,
    /// Another one at each moment, so that it can be told from the time.
    OfTheMoment(Arc<VirtualClock>),
    /// Another one for each draw; so many were made.
    OfTheDraw(AtomicU64),
}

/// The jitter at this moment, where it changes with time: neither 0 nor 1.
pub(super) fn jitter_at(now: i64) -> f64 {
    ((now / 1000).rem_euclid(17) + 1) as f64 / 19.0
}

impl SeededIds {
    /// Ids from this number on.
    pub fn starting_at(first: u64) -> Self {
        Self::with(first, Jitter::Half)
    }

    fn with(first: u64, jitter: Jitter) -> Self {
        Self { next: AtomicU64::new(first), jitter }
    }
}

impl IdSource for SeededIds {
    fn ulid(&self) -> String {
        format!("{:026}", self.next.fetch_add(1, Ordering::SeqCst))
    }

    fn fraction(&self) -> f64 {
        match &self.jitter {
            Jitter::Half => 0.5,
            Jitter::OfTheMoment(clock) => jitter_at(clock.now().as_millis()),
            Jitter::OfTheDraw(made) => ((made.fetch_add(1, Ordering::SeqCst) * 5) % 16 + 1) as f64 / 17.0,
        }
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

/// How long leases last in checks.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// The longest time between ticks of a store that is there.
pub(crate) const BETWEEN_TICKS: Duration = Duration::from_secs(3);
/// How much of a time that passes is gone through tick by tick: more than the leases that are taken back in it.
const STEPPED: Duration = Duration::from_secs(2 * 30 + 10);

/// A fresh store in a world where nothing happens by itself.
pub struct World<'a, H: Harness> {
    harness: &'a H,
    /// The store under test.
    pub store: H::Store,
    /// Its clock.
    pub clock: Arc<VirtualClock>,
    /// Where ids come from.
    pub ids: Arc<SeededIds>,
    /// Its rules.
    pub policy: StorePolicy,
}

impl<'a, H: Harness> World<'a, H> {
    /// A world under the default rules.
    pub async fn open(harness: &'a H) -> Verdict<Self> {
        Self::with_policy(harness, StorePolicy::default()).await
    }

    /// A world under these rules.
    pub async fn with_policy(harness: &'a H, policy: StorePolicy) -> Verdict<Self> {
        Self::resume(harness, policy, Arc::new(VirtualClock::default()), Arc::new(SeededIds::starting_at(1)))
            .await
    }

    /// A world in which jitter follows from the time, see [`jitter_at`].
    pub(super) async fn with_jitter_of_the_moment(harness: &'a H, policy: StorePolicy) -> Verdict<Self> {
        let clock = Arc::new(VirtualClock::default());
        let ids = SeededIds::with(1, Jitter::OfTheMoment(Arc::clone(&clock)));
        Self::resume(harness, policy, clock, Arc::new(ids)).await
    }

    /// A world in which no two of sixteen draws of jitter in a row are the same.
    pub(super) async fn with_jitter_of_the_draw(harness: &'a H) -> Verdict<Self> {
        let ids = SeededIds::with(1, Jitter::OfTheDraw(AtomicU64::new(0)));
        Self::resume(harness, StorePolicy::default(), Arc::default(), Arc::new(ids)).await
    }

    /// A world that goes on with the clock and the ids of another.
    pub async fn resume(
        harness: &'a H,
        policy: StorePolicy,
        clock: Arc<VirtualClock>,
        ids: Arc<SeededIds>,
    ) -> Verdict<Self> {
        let store = harness.fresh(policy, Arc::clone(&clock) as _, Arc::clone(&ids) as _).await?;
        Ok(Self { harness, store, clock, ids, policy })
    }

    /// The last line of every check: nothing is inconsistent behind the ports.
    pub async fn audit(&self) -> Verdict {
        self.harness.audit(&self.store).await
    }

    /// The tenant that submits unless a check says otherwise.
    pub fn tenant(&self) -> TenantId {
        TenantId::default()
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A submission of the work called `work`, on its way.
    pub fn upload(&self, work: &str) -> NewSubmission {
        let job_id = JobId::generate(&*self.ids);
        let blob = BlobKey::for_upload(&job_id);
        NewSubmission {
            id: SubmissionId::generate(&*self.ids),
            job_id,
            tenant: self.tenant(),
            options: TranscribeOptions::for_model("tiny.en"),
            dedupe_key: DedupeKey::from_stored(work),
            audio: AudioInfo {
                sha256: work.to_owned(),
                bytes: 1000,
                format: AudioFormat::Wav,
                duration_ms: None,
                findings: Default::default(),
            },
            blob,
            priority: Priority::Normal,
            deadline: None,
            estimated_secs: 10,
            caps: TenantCaps::default(),
            metadata: BTreeMap::new(),
            idempotency: None,
            trace: None,
        }
    }

    /// The same for another tenant, with what fairness charges for it.
    pub fn upload_of(&self, tenant: &TenantId, work: &str, estimated_secs: u64) -> NewSubmission {
        NewSubmission {
            tenant: tenant.clone(),
            estimated_secs,
            dedupe_key: DedupeKey::from_stored(format!("{tenant} {work}")),
            ..self.upload(work)
        }
    }

    /// Submits the work called `work`.
    pub async fn submit(&self, work: &str) -> Verdict<SubmitOutcome> {
        Ok(self.store.submit(self.upload(work)).await?)
    }

    /// Submits the work called `work` and returns its ticket.
    pub async fn ticket(&self, work: &str) -> Verdict<SubmissionId> {
        Ok(self.submit(work).await?.submission.id)
    }

    /// Submits at a tier.
    pub async fn submit_at(&self, work: &str, priority: Priority) -> Verdict<SubmissionId> {
        let new = NewSubmission { priority, ..self.upload(work) };
        Ok(self.store.submit(new).await?.submission.id)
    }

    /// A worker that was never seen.
    pub fn worker(&self) -> WorkerId {
        WorkerId::generate(&*self.ids)
    }

    /// A claim that was never made.
    pub fn request(&self, worker: &WorkerId, idle: bool) -> ClaimRequest {
        ClaimRequest {
            worker: worker.clone(),
            nonce: ClaimNonce::generate(&*self.ids),
            idle,
            lease: LEASE,
            abilities: Abilities::all(),
        }
    }

    /// Claims up to `most` jobs, one after the other, for a worker that is idle when it begins.
    pub async fn claim(&self, worker: &WorkerId, most: usize) -> Verdict<Vec<Lease>> {
        self.claim_up_to(worker, most, true).await
    }

    /// The same for a worker that is busy already.
    pub async fn claim_busy(&self, worker: &WorkerId, most: usize) -> Verdict<Vec<Lease>> {
        self.claim_up_to(worker, most, false).await
    }

    async fn claim_up_to(&self, worker: &WorkerId, most: usize, idle: bool) -> Verdict<Vec<Lease>> {
        let mut leases = Vec::new();
        while leases.len() < most {
            let request = self.request(worker, idle && leases.is_empty());
            let Some(lease) = self.store.claim(request).await? else { break };
            leases.push(lease);
        }
        Ok(leases)
    }

    /// Claims the one job that must be there, for a new worker.
    pub async fn claim_one(&self) -> Verdict<Lease> {
        let leases = self.claim(&self.worker(), 1).await?;
        leases.into_iter().next().ok_or_else(|| Violation::new("there is a job to claim, but none was given"))
    }

    /// A completion of the work that the lease is on.
    pub fn completion(&self, token: &LeaseToken) -> Completion {
        Completion {
            result: BlobKey::for_result(token),
            duration_ms: 2_500,
            findings: Default::default(),
            engine: "fake".to_owned(),
            model: "tiny.en".to_owned(),
            segments: 0,
            retold: false,
        }
    }

    /// Completes the job; its audio turned out to last so long.
    pub async fn complete_after(&self, lease: &Lease, secs: u64) -> Verdict<Finish> {
        let completion = Completion { duration_ms: secs * 1000, ..self.completion(&lease.token) };
        Ok(self.store.complete(&lease.token, completion).await?)
    }

    /// Completes the job.
    pub async fn complete(&self, lease: &Lease) -> Verdict<Finish> {
        Ok(self.store.complete(&lease.token, self.completion(&lease.token)).await?)
    }

    /// Renews one lease.
    pub async fn renew(&self, token: &LeaseToken) -> Verdict<Renewal> {
        let renewals = self.store.renew(std::slice::from_ref(token), LEASE).await?;
        let one = <[Renewal; 1]>::try_from(renewals);
        one.map(|[renewal]| renewal).map_err(|all| Violation::new(format!("{all:?} answers one renewal")))
    }

    /// Fails the attempt.
    pub async fn fail(&self, lease: &Lease, kind: FailureKind) -> Verdict<Finish> {
        Ok(self.store.fail(&lease.token, JobFailure::new(kind, "it failed")).await?)
    }

    /// Claims the one job there is and completes it.
    pub async fn work_off_one(&self) -> Verdict<Lease> {
        let lease = self.claim_one().await?;
        let finish = self.complete(&lease).await?;
        ensure!(finish == Finish::Done(JobState::Completed), "completing answered {finish:?}");
        Ok(lease)
    }

    /// Every blob that is listed for deletion and held by nobody, whatever its grace.
    pub async fn garbage(&self) -> Verdict<Vec<BlobKey>> {
        let request =
            GarbageRequest { most: MAX_BLOBS_PER_CALL, grace: Duration::ZERO, hold: Duration::ZERO };
        Ok(self.store.take_garbage(request).await?)
    }

    /// Whether a job needs the blob.
    pub async fn needs(&self, key: &BlobKey) -> Verdict<bool> {
        Ok(self.store.fates(std::slice::from_ref(key)).await? == [BlobFate::Needed])
    }

    /// The submission, which must be there.
    pub async fn get(&self, id: &SubmissionId) -> Verdict<Submission> {
        let found = self.store.get(&self.tenant(), id).await?;
        found.ok_or_else(|| Violation::new(format!("submission {id} is lost")))
    }

    /// Where the submission is.
    pub async fn status(&self, id: &SubmissionId) -> Verdict<SubmissionStatus> {
        Ok(self.get(id).await?.status)
    }

    /// Fails the check unless the submission is there.
    pub async fn expect(&self, id: &SubmissionId, status: SubmissionStatus) -> Verdict {
        let now = self.status(id).await?;
        ensure!(now == status, "submission {id} is {now:?}, expected {status:?}");
        Ok(())
    }

    /// Cancels the submission, which must be there.
    pub async fn cancel(&self, id: &SubmissionId) -> Verdict<Submission> {
        let found = self.store.cancel(&self.tenant(), id).await?;
        found.ok_or_else(|| Violation::new(format!("submission {id} is lost")))
    }

    /// All submissions of the tenant, newest first.
    pub async fn list(&self) -> Verdict<Vec<Submission>> {
        let query = ListQuery { limit: usize::MAX, ..ListQuery::default() };
        Ok(self.store.list(&self.tenant(), query).await?.submissions)
    }

    /// Upkeep until there is nothing more to do now.
    pub async fn settle(&self) -> Verdict<TickReport> {
        let mut total = TickReport::default();
        for _ in 0..1000 {
            let round = self.store.tick().await?;
            total.add(round);
            if !round.did_something() {
                return Ok(total);
            }
        }
        Err(Violation::new("upkeep finds something to do for ever"))
    }

    /// Lets time pass while upkeep goes on. Of a long time only the last part is gone through step by step: what comes
    /// before is one leap, as if the store had been away.
    pub async fn pass(&self, by: Duration) -> Verdict<TickReport> {
        let mut left = by.min(STEPPED);
        let mut total = self.settle().await?;
        if by > left {
            self.clock.advance(by - left);
            total.add(self.settle().await?);
        }
        while !left.is_zero() {
            let step = left.min(BETWEEN_TICKS);
            self.clock.advance(step);
            left -= step;
            total.add(self.settle().await?);
        }
        Ok(total)
    }

    /// Lets time pass in which nobody reaches the store.
    pub fn away(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The workers that hold jobs and do not renew die; their jobs can be claimed again afterwards.
    pub async fn die(&self) -> Verdict {
        self.pass(LEASE).await?;
        self.until_due().await
    }

    /// Lets time pass until no job is delayed any more.
    pub async fn until_due(&self) -> Verdict {
        for _ in 0..self.policy.retry.max_delay.as_secs() {
            if self.count(JobState::Delayed).await? == 0 {
                return Ok(());
            }
            self.pass(Duration::from_secs(1)).await?;
        }
        Err(Violation::new("a job is delayed for longer than the longest delay"))
    }

    /// Submits the work, beside which as many workers die as isolate a job. There must be no other work.
    pub async fn isolate(&self, new: NewSubmission) -> Verdict<SubmissionId> {
        let id = new.id.clone();
        self.isolate_all(vec![new]).await?;
        Ok(id)
    }

    /// The same for several jobs, which were beside each other.
    pub async fn isolate_all(&self, news: Vec<NewSubmission>) -> Verdict {
        let jobs = news.len();
        for new in news {
            self.store.submit(new).await?;
        }
        for _ in 0..ISOLATED_AFTER {
            let held = self.claim(&self.worker(), jobs).await?.len();
            ensure!(held == jobs, "{held} of {jobs} jobs were given to the worker that is to die");
            self.die().await?;
        }
        Ok(())
    }

    /// Jobs in this state, as the store counts them.
    pub async fn count(&self, state: JobState) -> Verdict<u64> {
        Ok(count_of(&self.store.stats().await?, state))
    }

    /// The submission's stream, which must be there.
    pub async fn watch(&self, id: &SubmissionId, after: Option<EventSeq>) -> Verdict<EventStream> {
        let stream = self.store.events(&self.tenant(), id, after).await?;
        stream.ok_or_else(|| Violation::new(format!("submission {id} has no events")))
    }

    /// The whole stream of a submission that has ended.
    pub async fn story(&self, id: &SubmissionId, after: Option<EventSeq>) -> Verdict<Vec<JobEvent>> {
        drain(self.watch(id, after).await?).await
    }
}

/// A tenant of this name.
pub(super) fn tenant(name: &str) -> Verdict<TenantId> {
    TenantId::parse(name).map_err(|error| Violation::new(error.to_string()))
}

/// Waits for what must come; the limit only keeps a store that forgets its watchers from hanging the suite.
pub(super) async fn patiently<T>(coming: impl Future<Output = T>) -> Verdict<T> {
    let come = tokio::time::timeout(Duration::from_secs(20), coming).await;
    come.map_err(|_| Violation::new("a watcher waited for an event that never came"))
}

/// The events up to the end of the stream.
pub(super) async fn drain(stream: EventStream) -> Verdict<Vec<JobEvent>> {
    let events: Vec<_> = patiently(stream.collect()).await?;
    Ok(events.into_iter().collect::<Result<_, _>>()?)
}

/// The names of the events.
pub(super) fn names(events: &[JobEvent]) -> Vec<&'static str> {
    events.iter().map(|event| EventKind::name(&event.kind)).collect()
}

/// Jobs in this state.
pub(super) fn count_of(stats: &QueueStats, state: JobState) -> u64 {
    stats.states.iter().filter(|(other, _)| *other == state).map(|(_, count)| count).sum()
}
