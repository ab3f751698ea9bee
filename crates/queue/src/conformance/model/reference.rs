//! The model: lists of jobs and submissions, and the rules.

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{JobId, SubmissionId, WorkerId};
use verbatim_core::job::{JobState, Lease, LeaseToken, NewSubmission, SubmissionStatus};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{ClaimRequest, DeleteOutcome, Finish, Renewal};
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_core::time::Timestamp;

use super::super::virtual_world::LEASE;
use super::super::{Verdict, ensure, ensure_eq};

/// The jitter of [`super::super::SeededIds`].
const JITTER: f64 = 0.5;

#[derive(Debug)]
struct Job {
    id: JobId,
    work: String,
    state: JobState,
    created_at: Timestamp,
    since: Timestamp,
    due: Timestamp,
    finished_at: Timestamp,
    expires_at: Timestamp,
    attempt: u32,
    crashes: u32,
    suspect: bool,
    crowded: bool,
    unwanted: bool,
    holder: Option<(LeaseToken, WorkerId, Timestamp)>,
    fence: u64,
    past: Option<(&'static str, LeaseToken, JobState)>,
}

#[derive(Debug)]
struct Ticket {
    id: SubmissionId,
    job: JobId,
    cancelled: bool,
}

/// What the store should be.
#[derive(Debug)]
pub(super) struct Model {
    policy: StorePolicy,
    jobs: Vec<Job>,
    tickets: Vec<Ticket>,
    ids: Vec<SubmissionId>,
}

impl Model {
    pub(super) fn new(policy: StorePolicy) -> Self {
        Self { policy, jobs: Vec::new(), tickets: Vec::new(), ids: Vec::new() }
    }

    /// Every ticket ever given.
    pub(super) fn tickets(&self) -> &[SubmissionId] {
        &self.ids
    }

    /// What is remembered: ticket, status, attempts.
    pub(super) fn submissions(&self) -> impl Iterator<Item = (&SubmissionId, SubmissionStatus, u32)> {
        self.tickets.iter().filter_map(|ticket| {
            let job = self.jobs.iter().find(|job| job.id == ticket.job)?;
            let status = if ticket.cancelled { SubmissionStatus::Cancelled } else { job.state.into() };
            Some((&ticket.id, status, job.attempt))
        })
    }

    pub(super) fn status(&self, id: &SubmissionId) -> Option<SubmissionStatus> {
        self.submissions().find(|(other, ..)| *other == id).map(|(_, status, _)| status)
    }

    pub(super) fn count(&self, state: JobState) -> u64 {
        self.jobs.iter().filter(|job| job.state == state).count() as u64
    }

    /// The job, whether its result was there already, whether it was under way already.
    pub(super) fn submit(&mut self, new: &NewSubmission, now: Timestamp) -> (JobId, bool, bool) {
        let work = new.dedupe_key.as_str();
        let (ttl, keep) = (self.policy.dedupe_ttl, self.policy.result_retention);
        let fresh = |job: &&mut Job| job.state == JobState::Completed && job.finished_at.plus(ttl) > now;
        let live = |job: &&Job| !job.state.is_terminal() && !job.unwanted;
        let cached = self
            .jobs
            .iter_mut()
            .filter(|job| job.work == work)
            .filter(fresh)
            .max_by_key(|job| job.finished_at);
        let (job, cached, attached) = if let Some(job) = cached {
            job.expires_at = job.expires_at.max(now.plus(keep));
            (job.id.clone(), true, false)
        } else if let Some(job) = self.jobs.iter().filter(|job| job.work == work).find(live) {
            (job.id.clone(), false, true)
        } else {
            self.jobs.push(Job {
                id: new.job_id.clone(),
                work: work.to_owned(),
                state: JobState::Queued,
                created_at: now,
                since: now,
                due: now,
                finished_at: now,
                expires_at: now,
                attempt: 0,
                crashes: 0,
                suspect: false,
                crowded: false,
                unwanted: false,
                holder: None,
                fence: 0,
                past: None,
            });
            (new.job_id.clone(), false, false)
        };
        self.ids.push(new.id.clone());
        self.tickets.push(Ticket { id: new.id.clone(), job: job.clone(), cancelled: false });
        (job, cached, attached)
    }

    /// Checks what a claim gave against what it may give, and takes it over.
    pub(super) fn claimed(&mut self, request: &ClaimRequest, leases: &[Lease], now: Timestamp) -> Verdict {
        let held: Vec<_> = self.running_of(&request.worker).collect();
        let (holds_any, holds_suspect) = (!held.is_empty(), held.iter().any(|job| job.suspect));
        let idle = request.idle && !holds_any && request.max > 0;
        let queued = |suspect: bool| {
            self.jobs.iter().filter(move |job| job.state == JobState::Queued && job.suspect == suspect)
        };
        let overdue = queued(true).any(|job| job.since.plus(self.policy.alone_patience) < now);
        let (suspects, others) = (queued(true).count(), queued(false).count());
        ensure!(leases.len() <= request.max, "more leases than were asked for");
        if leases.iter().any(|lease| lease.alone) {
            ensure!(idle && leases.len() == 1, "a suspect was not alone");
            ensure!(suspects > 0, "no suspect was there");
        } else if holds_suspect {
            ensure_eq!(leases.len(), 0, "leases for a worker that must wait");
        } else if overdue {
            ensure!(!idle, "an idle worker did not get the suspect that waited too long");
            ensure!(leases.len() <= others, "more leases than there are jobs");
        } else {
            ensure_eq!(leases.len(), others.min(request.max), "leases");
            ensure!(!(leases.is_empty() && idle && suspects > 0), "an idle worker left a suspect");
        }
        for lease in leases {
            let Some(job) = self.jobs.iter_mut().find(|job| job.id == lease.token.job_id) else {
                return Err(super::super::Violation::new("a lease on a job that does not exist"));
            };
            ensure_eq!(job.state, JobState::Queued, "the state of a job that was given");
            ensure_eq!(
                (lease.attempt, lease.alone),
                (job.attempt + 1, job.suspect),
                "attempt, and whether alone"
            );
            ensure!(lease.token.fence.get() > job.fence, "the fence did not rise");
            job.state = JobState::Running;
            job.attempt += 1;
            job.crowded = false;
            job.fence = lease.token.fence.get();
            job.holder = Some((lease.token.clone(), request.worker.clone(), now.plus(request.lease)));
        }
        Ok(())
    }

    fn running_of(&self, worker: &WorkerId) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.holder.as_ref().is_some_and(|(_, holder, _)| holder == worker))
    }

    fn held(&mut self, token: &LeaseToken) -> Option<usize> {
        self.jobs.iter().position(|job| job.holder.as_ref().is_some_and(|(held, ..)| held == token))
    }

    pub(super) fn renew(&mut self, token: &LeaseToken, now: Timestamp) -> Renewal {
        let Some(at) = self.held(token) else { return Renewal::Lost };
        let expires_at = now.plus(LEASE);
        if let Some((_, _, end)) = &mut self.jobs[at].holder {
            *end = expires_at;
        }
        if self.jobs[at].unwanted { Renewal::CancelRequested } else { Renewal::Held { expires_at } }
    }

    pub(super) fn complete(&mut self, token: &LeaseToken, now: Timestamp) -> Finish {
        self.finish("complete", token, now, |job, _, _| job.state = JobState::Completed)
    }

    pub(super) fn fail(&mut self, token: &LeaseToken, failure: &JobFailure, now: Timestamp) -> Finish {
        self.finish("fail", token, now, |job, policy, now| {
            job.retry(next_step(&policy.retry, job.attempt, failure, JITTER), now);
        })
    }

    pub(super) fn release(&mut self, token: &LeaseToken, now: Timestamp) -> Finish {
        self.finish("release", token, now, |job, _, now| {
            job.attempt -= 1;
            job.state = JobState::Queued;
            job.since = now;
        })
    }

    fn finish(
        &mut self,
        call: &'static str,
        token: &LeaseToken,
        now: Timestamp,
        act: impl FnOnce(&mut Job, &StorePolicy, Timestamp),
    ) -> Finish {
        let Some(at) = self.held(token) else {
            let past = self.jobs.iter().filter_map(|job| job.past.as_ref());
            let same = past.into_iter().find(|(other, past, _)| *other == call && past == token);
            return same.map_or(Finish::Stale, |(.., state)| Finish::Done(*state));
        };
        let job = &mut self.jobs[at];
        job.holder = None;
        if job.unwanted {
            job.state = JobState::Cancelled;
        } else {
            act(job, &self.policy, now);
        }
        job.past = Some((call, token.clone(), job.state));
        job.note_end(&self.policy, now);
        Finish::Done(job.state)
    }

    pub(super) fn cancel(&mut self, id: &SubmissionId, now: Timestamp) {
        if self.status(id).is_none_or(SubmissionStatus::is_terminal) {
            return;
        }
        let Some(ticket) = self.tickets.iter_mut().find(|ticket| ticket.id == *id) else { return };
        ticket.cancelled = true;
        let job = ticket.job.clone();
        if self.tickets.iter().any(|ticket| ticket.job == job && !ticket.cancelled) {
            return;
        }
        let Some(job) = self.jobs.iter_mut().find(|other| other.id == job) else { return };
        if job.state == JobState::Running {
            job.unwanted = true;
        } else {
            job.state = JobState::Cancelled;
            job.note_end(&self.policy, now);
        }
    }

    pub(super) fn delete(&mut self, id: &SubmissionId, now: Timestamp) -> Option<DeleteOutcome> {
        if !self.status(id)?.is_terminal() {
            self.cancel(id, now);
            return Some(DeleteOutcome::Cancelled);
        }
        let at = self.tickets.iter().position(|ticket| ticket.id == *id)?;
        let job = self.tickets.remove(at).job;
        let others = self.tickets.iter().any(|ticket| ticket.job == job);
        self.jobs.retain(|other| other.id != job || others || !other.state.is_terminal());
        Some(DeleteOutcome::Removed)
    }

    /// What happens because it is that late now.
    pub(super) fn settle(&mut self, now: Timestamp) {
        for at in 0..self.jobs.len() {
            self.end_if_old(at, now);
        }
        for at in 0..self.jobs.len() {
            self.take_back_if_lapsed(at, now);
        }
        for job in &mut self.jobs {
            if job.state == JobState::Delayed && job.due <= now {
                job.state = JobState::Queued;
                job.since = now;
            }
        }
        self.jobs.retain(|job| !job.state.is_terminal() || job.expires_at > now);
        self.tickets.retain(|ticket| self.jobs.iter().any(|job| job.id == ticket.job));
    }

    fn end_if_old(&mut self, at: usize, now: Timestamp) {
        let job = &mut self.jobs[at];
        if !job.state.is_terminal() && job.created_at.plus(self.policy.max_age) <= now {
            job.holder = None;
            job.state = if job.unwanted { JobState::Cancelled } else { JobState::Failed };
            job.note_end(&self.policy, now);
        }
    }

    fn take_back_if_lapsed(&mut self, at: usize, now: Timestamp) {
        let Some((_, worker, _)) = self.jobs[at].holder.take_if(|(.., end)| *end <= now) else { return };
        let mut in_company = self.jobs[at].crowded;
        for other in &mut self.jobs {
            if other.holder.as_ref().is_some_and(|(_, holder, _)| *holder == worker) {
                other.crowded = true;
                in_company = true;
            }
        }
        let job = &mut self.jobs[at];
        if job.unwanted {
            job.state = JobState::Cancelled;
        } else {
            job.attempt -= 1;
            job.suspect = true;
            job.state = JobState::Queued;
            job.since = now;
            if !in_company {
                job.crashes += 1;
                let retry = RetryPolicy { max_attempts: self.policy.retry.max_crashes, ..self.policy.retry };
                let lost = JobFailure::new(FailureKind::WorkerLost, "");
                job.retry(next_step(&retry, job.crashes, &lost, JITTER), now);
            }
        }
        job.note_end(&self.policy, now);
    }
}

impl Job {
    fn retry(&mut self, step: NextStep, now: Timestamp) {
        match step {
            NextStep::GiveUp => self.state = JobState::Failed,
            NextStep::Retry { delay, .. } => {
                self.state = JobState::Delayed;
                self.due = now.plus(delay);
            }
        }
    }

    fn note_end(&mut self, policy: &StorePolicy, now: Timestamp) {
        if self.state.is_terminal() {
            self.finished_at = now;
            self.expires_at = now.plus(policy.result_retention);
        }
    }
}
