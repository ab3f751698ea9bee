//! A job store in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;
use verbatim_core::caps::{AtCap, TenantUse};
use verbatim_core::class::JobClass;
use verbatim_core::event::{EventKind, EventSeq, JobEvent, Stage};
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{NewSubmission, Submission, SubmissionStatus, SubmitOutcome, TenantCaps};
use verbatim_core::language::Language;
use verbatim_core::options::{ENGINE_AUTO, Task};
use verbatim_core::ports::jobs::{
    BlobFate, DeadLetter, DeadLetterPage, DeadLetterQuery, DeleteOutcome, EventStream, GarbageRequest,
    ListQuery, Listing, QueueStats, TickReport,
};
use verbatim_core::ports::{BlobKey, JobAdmin, JobClient, JobUpkeep};
use verbatim_core::time::Clock;
use verbatim_core::transcript::Transcript;
use verbatim_core::{ErrorKind, PortError};

use super::blobs::Blobs;
use super::{Noon, segment};

/// One submission and its events.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) submission: Submission,
    pub(crate) events: watch::Sender<Vec<JobEvent>>,
}

/// A job store without jobs of its own: every submission is its own work, unless told otherwise.
#[derive(Default)]
pub(crate) struct Jobs {
    pub(crate) entries: Mutex<BTreeMap<SubmissionId, Entry>>,
    /// The next submissions find their work done already.
    pub(crate) attach: AtomicBool,
    /// The next submissions are refused so.
    pub(crate) refuse: Mutex<Option<ErrorKind>>,
    /// Results that were said to be gone.
    pub(crate) lost: Mutex<Vec<(SubmissionId, BlobKey)>>,
    pub(crate) panic: AtomicBool,
    /// The next submissions get no answer.
    pub(crate) hang: AtomicBool,
    /// No worker that is there can do anything.
    pub(crate) unserved: AtomicBool,
    pub(crate) figures: Mutex<QueueStats>,
    pub(crate) cancelled: AtomicUsize,
    /// The caps of the last submission.
    pub(crate) caps: Mutex<TenantCaps>,
    /// Those that were put in force.
    pub(crate) in_force: Mutex<BTreeMap<TenantId, TenantCaps>>,
    /// What failed for good, the latest first.
    pub(crate) dead: Mutex<Vec<DeadLetter>>,
    /// How many of them a search looks at.
    pub(crate) look_at: Mutex<Option<usize>>,
    /// How often figures were asked for.
    pub(crate) asked_for_stats: AtomicUsize,
}

impl Jobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.lock().unwrap().is_empty()
    }

    pub(crate) fn only(&self) -> Submission {
        let entries = self.entries.lock().unwrap();
        assert_eq!(entries.len(), 1);
        entries.values().next().unwrap().submission.clone()
    }

    /// The submission, if it is this tenant's.
    fn of(&self, tenant: &TenantId, id: &SubmissionId) -> Option<Entry> {
        self.entries.lock().unwrap().get(id).filter(|entry| entry.submission.tenant == *tenant).cloned()
    }

    pub(crate) fn tell(&self, id: &SubmissionId, kind: EventKind) {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.get_mut(id).unwrap();
        match &kind {
            EventKind::Completed => entry.submission.status = SubmissionStatus::Completed,
            EventKind::Failed { failure } => {
                entry.submission.status = SubmissionStatus::Failed;
                entry.submission.failure = Some(failure.clone());
            }
            EventKind::Cancelled => entry.submission.status = SubmissionStatus::Cancelled,
            _ => {}
        }
        entry.events.send_modify(|events| {
            let seq = EventSeq(events.len() as u64 + 1);
            events.push(JobEvent { seq, at: Noon.now(), kind });
        });
    }

    pub(crate) fn fail(&self, id: &SubmissionId, failure: JobFailure) {
        self.tell(id, EventKind::Failed { failure });
    }

    /// Stores a transcript of these segments and completes the job.
    pub(crate) fn complete(&self, blobs: &Blobs, id: &SubmissionId, texts: &[&str]) {
        let key = BlobKey::parse(&format!("results/work/{}", id.as_str())).unwrap();
        let transcript = Transcript {
            task: Task::Transcribe,
            language: Language::ENGLISH,
            language_probability: 1.0,
            duration_ms: 1_500,
            engine: "whisper".into(),
            model: "tiny.en".into(),
            segments: texts.iter().zip(0..).map(|(text, index)| segment(index, text)).collect(),
        };
        blobs.blobs.lock().unwrap().insert(key.clone(), serde_json::to_vec(&transcript).unwrap());
        self.entries.lock().unwrap().get_mut(id).unwrap().submission.result = Some(key);
        self.tell(id, EventKind::Completed);
    }

    /// Waits until a submission is watched, and answers its id.
    pub(crate) async fn watched(&self) -> SubmissionId {
        loop {
            let watched = self
                .entries
                .lock()
                .unwrap()
                .values()
                .find(|entry| entry.events.receiver_count() > 0)
                .cloned();
            match watched {
                Some(entry) => return entry.submission.id,
                None => tokio::task::yield_now().await,
            }
        }
    }
}

fn submission(new: NewSubmission, attached: bool) -> Submission {
    Submission {
        id: new.id,
        job_id: new.job_id,
        tenant: new.tenant,
        status: SubmissionStatus::Queued,
        progress: 0.0,
        stage: Stage::Queued,
        created_at: Noon.now(),
        started_at: None,
        finished_at: None,
        queue_position: Some(0),
        waiting_for: None,
        attempt: 0,
        engine: ENGINE_AUTO.into(),
        options: new.options,
        priority: new.priority,
        audio: new.audio,
        cached: false,
        deduplicated: attached,
        failure: None,
        result: None,
        metadata: new.metadata,
    }
}

#[async_trait]
impl JobClient for Jobs {
    async fn submit(&self, new: NewSubmission) -> Result<SubmitOutcome, PortError> {
        assert!(!self.panic.load(Ordering::Relaxed), "a store that panics");
        if self.hang.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(PortError::new(kind, "the store says no, and why is secret"));
        }
        *self.caps.lock().unwrap() = new.caps;
        let attached = self.attach.load(Ordering::Relaxed);
        let mut submission = submission(new, attached);
        if self.unserved.load(Ordering::Relaxed) {
            submission.waiting_for = Some(JobClass::of(&submission.options).waits_for());
        }
        let entry = Entry { submission: submission.clone(), events: watch::Sender::default() };
        self.entries.lock().unwrap().insert(submission.id.clone(), entry);
        Ok(SubmitOutcome { submission, blob_adopted: !attached, replayed: false })
    }

    async fn find_idempotent(
        &self,
        _: &TenantId,
        _: &str,
    ) -> Result<Option<(Submission, String)>, PortError> {
        Ok(None)
    }

    async fn get(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        Ok(self.of(tenant, id).map(|entry| entry.submission))
    }

    async fn list(&self, tenant: &TenantId, query: ListQuery) -> Result<Listing, PortError> {
        let entries = self.entries.lock().unwrap();
        let newest_first = entries.values().rev().map(|entry| entry.submission.clone());
        let submissions = newest_first
            .filter(|s| s.tenant == *tenant)
            .filter(|s| query.status.is_none_or(|status| s.status == status))
            .filter(|s| query.before.as_ref().is_none_or(|before| s.id < *before))
            .take(query.limit)
            .collect();
        Ok(Listing { submissions, next: None })
    }

    async fn delete(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<DeleteOutcome>, PortError> {
        let status = self.of(tenant, id).map(|entry| entry.submission.status);
        Ok(match status {
            None => None,
            Some(status) if status.is_terminal() => {
                self.entries.lock().unwrap().remove(id);
                Some(DeleteOutcome::Removed)
            }
            Some(_) => {
                self.tell(id, EventKind::Cancelled);
                Some(DeleteOutcome::Cancelled)
            }
        })
    }

    async fn cancel(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
        self.tell(id, EventKind::Cancelled);
        self.get(tenant, id).await
    }

    async fn is_served(&self, _: &JobClass) -> Result<bool, PortError> {
        Ok(!self.unserved.load(Ordering::Relaxed))
    }

    async fn result_lost(&self, _: &TenantId, id: &SubmissionId, result: &BlobKey) -> Result<(), PortError> {
        self.lost.lock().unwrap().push((id.clone(), result.clone()));
        Ok(())
    }

    async fn events(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        after: Option<EventSeq>,
    ) -> Result<Option<EventStream>, PortError> {
        let Some(entry) = self.of(tenant, id) else { return Ok(None) };
        let at = after.map_or(0, |EventSeq(seq)| usize::try_from(seq).unwrap());
        let stream = stream::unfold((entry.events.subscribe(), at), |(mut events, at)| async move {
            if at > 0 && events.borrow().get(at - 1)?.kind.is_terminal() {
                return None;
            }
            let event = events.wait_for(|events| events.len() > at).await.ok()?[at].clone();
            Some((Ok(event), (events, at + 1)))
        });
        Ok(Some(stream.boxed()))
    }
}

#[async_trait]
impl JobAdmin for Jobs {
    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<DeadLetterPage, PortError> {
        let dead = self.dead.lock().unwrap().clone();
        let look_at = *self.look_at.lock().unwrap();
        let after = |before: &JobId| dead.iter().position(|letter| letter.job_id == *before).map(|at| at + 1);
        let from = query.before.as_ref().and_then(after).unwrap_or(0);
        let looked_at: Vec<_> = dead[from..].iter().take(look_at.unwrap_or(usize::MAX)).collect();
        let of_tenant = |letter: &DeadLetter| query.tenant.as_ref().is_none_or(|own| letter.tenant == *own);
        let found = looked_at.iter().copied().filter(|letter| of_tenant(letter));
        let letters: Vec<_> = found.take(query.limit).cloned().collect();
        let ended_early = letters.len() < query.limit && Some(looked_at.len()) == look_at;
        let next = looked_at.last().filter(|_| ended_early).map(|last| last.job_id.clone());
        Ok(DeadLetterPage { letters, next })
    }

    async fn redrive(&self, id: &JobId) -> Result<bool, PortError> {
        if *self.refuse.lock().unwrap() == Some(ErrorKind::Conflict) {
            return Err(PortError::new(ErrorKind::Conflict, "the same work is under way"));
        }
        self.discard_dead_letter(id).await
    }

    async fn discard_dead_letter(&self, id: &JobId) -> Result<bool, PortError> {
        let mut dead = self.dead.lock().unwrap();
        let before = dead.len();
        dead.retain(|letter| letter.job_id != *id);
        Ok(dead.len() < before)
    }

    async fn set_caps(&self, caps: &[(TenantId, TenantCaps)]) -> Result<AtCap, PortError> {
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(PortError::new(kind, "no caps"));
        }
        self.in_force.lock().unwrap().extend(caps.iter().cloned());
        Ok(AtCap { running: 1, queued: 0 })
    }

    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError> {
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(PortError::new(kind, "no figures"));
        }
        let entries = self.entries.lock().unwrap();
        let in_force = self.in_force.lock().unwrap();
        let takes_up = |tenant: &TenantId| {
            let own = || entries.values().filter(|entry| entry.submission.tenant == *tenant);
            let waits = |entry: &&Entry| entry.submission.status == SubmissionStatus::Queued;
            TenantUse {
                tenant: tenant.clone(),
                running: 0,
                waiting: own().filter(waits).count() as u64,
                submissions: own().count() as u64,
                caps: in_force.get(tenant).copied().unwrap_or_default(),
            }
        };
        Ok(tenants.iter().map(takes_up).collect())
    }
}

#[async_trait]
impl JobUpkeep for Jobs {
    async fn tick(&self) -> Result<TickReport, PortError> {
        Ok(TickReport::default())
    }
    async fn take_garbage(&self, _: GarbageRequest) -> Result<Vec<BlobKey>, PortError> {
        Ok(Vec::new())
    }
    async fn blobs_deleted(&self, _: &[BlobKey]) -> Result<(), PortError> {
        Ok(())
    }
    async fn fates(&self, keys: &[BlobKey]) -> Result<Vec<BlobFate>, PortError> {
        Ok(vec![BlobFate::Needed; keys.len()])
    }
    async fn stats(&self) -> Result<QueueStats, PortError> {
        self.asked_for_stats.fetch_add(1, Ordering::Relaxed);
        match *self.refuse.lock().unwrap() {
            Some(kind) => Err(PortError::new(kind, "no figures")),
            None => Ok(self.figures.lock().unwrap().clone()),
        }
    }
    async fn ping(&self) -> Result<(), PortError> {
        self.stats().await.map(|_| ())
    }
}
