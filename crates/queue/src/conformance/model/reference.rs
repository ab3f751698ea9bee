//! The model: lists of jobs and submissions, and the rules. Whatever was made keeps its number, also when it is forgotten.

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{JobState, SubmissionStatus, TenantCaps};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{DeleteOutcome, Finish, Renewal};
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_core::time::Timestamp;

use super::super::virtual_world::{BETWEEN_TICKS, LEASE};
use super::turns::Turns;
use super::{Answer, Op, TENANTS, Work, brisk_policy, class_of, millis};
use crate::{AWAY, MOST_GRACES};

/// The jitter of [`super::super::SeededIds`].
const JITTER: f64 = 0.5;

/// A job that a claim gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) job: usize,
    pub(super) fence: u64,
    pub(super) attempt: u32,
    pub(super) alone: bool,
}

#[derive(Debug, Clone)]
struct Held {
    worker: usize,
    until: i64,
}

/// A lease that was taken back, and what was counted for it.
#[derive(Debug, Clone)]
struct TakenBack {
    fence: u64,
    worker: usize,
    death: bool,
    crash: bool,
    isolating: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) tenant: usize,
    work: u8,
    pub(super) class: usize,
    pub(super) tier: usize,
    pub(super) secs: u64,
    state: JobState,
    gone: bool,
    ends_at: i64,
    pub(super) position: i64,
    /// Since when it is queued.
    pub(super) since: i64,
    due: i64,
    finished_at: i64,
    expires_at: i64,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
    deaths: u32,
    pub(super) isolated: bool,
    /// How far its checkpoints came, in seconds of audio, and under which fence they moved last.
    checkpoint: (u16, u64),
    crowded: bool,
    unwanted: bool,
    held: Option<Held>,
    /// Leases in a row that were given because the store had been away.
    graces: u32,
    taken_back: Vec<TakenBack>,
    pub(super) fence: u64,
    past: Option<(&'static str, u64, JobState)>,
    /// The tier and the seconds that its tenant paid for the last claim.
    pub(super) charge: (usize, i64),
}

#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) job: usize,
    deadline: Option<i64>,
    /// How it ended apart from its job.
    ended: Option<SubmissionStatus>,
    pub(super) gone: bool,
}

/// What the store should be.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) policy: StorePolicy,
    pub(super) now: i64,
    pub(super) jobs: Vec<Job>,
    pub(super) tickets: Vec<Ticket>,
    pub(super) leases: Vec<Given>,
    caps: [TenantCaps; TENANTS.len()],
    pub(super) turns: Turns,
    head: i64,
    tail: i64,
    last_tick: Option<i64>,
    /// When the store was found again after a silence.
    back: i64,
    /// What the last step answered.
    pub(super) answer: Answer,
}

impl Job {
    pub(super) fn is(&self, state: JobState) -> bool {
        self.state == state && !self.gone
    }

    pub(super) fn is_held_by(&self, worker: usize) -> bool {
        self.held.as_ref().is_some_and(|held| held.worker == worker)
    }

    fn is_live(&self) -> bool {
        !self.state.is_terminal()
    }
}

impl Model {
    pub(super) fn empty(now: Timestamp) -> Self {
        Self {
            policy: brisk_policy(),
            now: now.as_millis(),
            jobs: Vec::new(),
            tickets: Vec::new(),
            leases: Vec::new(),
            caps: Default::default(),
            turns: Turns::default(),
            head: 0,
            tail: 0,
            last_tick: None,
            back: 0,
            answer: Answer::Nothing,
        }
    }

    pub(super) fn step(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Submit(ref work) => self.submit(work),
            Op::Resubmit { ticket, .. } => Answer::Replayed { job: self.tickets[ticket].job },
            Op::Claim { worker, says_idle } => {
                let given = self.claim(worker, says_idle);
                self.leases.extend(given.iter().cloned());
                Answer::Given(given)
            }
            Op::ClaimAgain { worker } => Answer::Given(self.still_held(worker)),
            Op::Complete { lease, secs } => Answer::Finish(self.finish("complete", lease, |model, at| {
                model.settle(at, i64::from(secs));
                if model.jobs[at].unwanted { JobState::Cancelled } else { JobState::Completed }
            })),
            Op::Fail { lease, kind } => {
                Answer::Finish(self.finish("fail", lease, |model, at| model.failed(at, kind)))
            }
            Op::Release { lease } => Answer::Finish(self.finish("release", lease, Self::released)),
            Op::Checkpoint { lease, secs } => Answer::Reported(self.checkpoint(lease, secs)),
            Op::Renew { lease } => Answer::Renewal(self.renew(lease)),
            Op::Cancel { ticket } => {
                self.cancel(ticket);
                Answer::Status(self.status(ticket))
            }
            Op::Delete { ticket } => Answer::Deleted(self.delete(ticket)),
            Op::Redrive { job } => Answer::Redriven(self.redrive(job)),
            Op::Discard { job } => {
                let there = self.jobs[job].is(JobState::Failed);
                if there {
                    self.forget(job);
                }
                Answer::Redriven(Some(there))
            }
            Op::Wait { secs } => {
                self.now += i64::from(secs) * 1000;
                Answer::Nothing
            }
            Op::Upkeep => {
                self.upkeep();
                Answer::Nothing
            }
            Op::Pass { secs } => {
                let mut left = i64::from(secs) * 1000;
                self.upkeep();
                while left > 0 {
                    let step = left.min(millis(BETWEEN_TICKS));
                    self.now += step;
                    left -= step;
                    self.upkeep();
                }
                Answer::Nothing
            }
        }
    }

    pub(super) fn status(&self, ticket: usize) -> Option<SubmissionStatus> {
        let ticket = &self.tickets[ticket];
        (!ticket.gone).then(|| ticket.ended.unwrap_or_else(|| self.jobs[ticket.job].state.into()))
    }

    pub(super) fn may_run_more(&self, tenant: usize) -> bool {
        self.room(tenant) > 0
    }

    /// How many more jobs of the tenant may run.
    pub(super) fn room(&self, tenant: usize) -> usize {
        let running =
            self.jobs.iter().filter(|job| job.tenant == tenant && job.is(JobState::Running)).count();
        let most = self.caps[tenant]
            .max_running
            .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        most.saturating_sub(running)
    }

    /// Tickets of the job that still wait for it or were told how it ended.
    fn waits(&self, job: usize) -> bool {
        self.tickets.iter().any(|ticket| ticket.job == job && !ticket.gone && ticket.ended.is_none())
    }

    fn live(&self, tenant: usize, work: u8) -> Option<usize> {
        self.jobs.iter().position(|job| {
            (job.tenant, job.work) == (tenant, work) && !job.gone && job.is_live() && !job.unwanted
        })
    }

    fn fresh(&self, tenant: usize, work: u8) -> Option<usize> {
        let ttl = millis(self.policy.dedupe_ttl);
        self.jobs.iter().position(|job| {
            let same = (job.tenant, job.work) == (tenant, work);
            same && job.is(JobState::Completed) && job.finished_at + ttl > self.now
        })
    }

    fn submit(&mut self, new: &Work) -> Answer {
        let (fresh, live) = (self.fresh(new.tenant, new.work), self.live(new.tenant, new.work));
        let (cached, attached) = (fresh.is_some(), fresh.is_none() && live.is_some());
        let waiting =
            |job: &&Job| job.tenant == new.tenant && (job.is(JobState::Queued) || job.is(JobState::Delayed));
        let most = new.caps.max_queued.unwrap_or(u64::MAX);
        if !cached && !attached && self.jobs.iter().filter(waiting).count() as u64 >= most {
            return Answer::Throttled;
        }
        self.caps[new.tenant] = new.caps;
        let job = fresh.or(live).unwrap_or_else(|| self.new_job(new));
        if cached {
            let keep = self.now + millis(self.policy.result_retention);
            self.jobs[job].expires_at = self.jobs[job].expires_at.max(keep);
        }
        if attached {
            self.jobs[job].tier = self.jobs[job].tier.min(new.tier);
        }
        let deadline = new.deadline.filter(|_| !cached).map(|secs| self.now + i64::from(secs) * 1000);
        self.tickets.push(Ticket { job, deadline, ended: None, gone: false });
        Answer::Submitted { job, cached, attached }
    }

    fn new_job(&mut self, new: &Work) -> usize {
        self.tail += 1;
        self.jobs.push(Job {
            tenant: new.tenant,
            work: new.work,
            class: class_of(new.work),
            tier: new.tier,
            secs: new.secs,
            state: JobState::Queued,
            gone: false,
            ends_at: self.now + millis(self.policy.max_age),
            position: self.tail,
            since: self.now,
            due: 0,
            finished_at: 0,
            expires_at: 0,
            attempt: 0,
            crashes: 0,
            deaths: 0,
            isolated: false,
            checkpoint: (0, 0),
            crowded: false,
            unwanted: false,
            held: None,
            graces: 0,
            taken_back: Vec::new(),
            fence: 0,
            past: None,
            charge: (0, 0),
        });
        self.jobs.len() - 1
    }

    pub(super) fn lease(&mut self, at: usize, worker: usize) -> Given {
        let job = &mut self.jobs[at];
        job.state = JobState::Running;
        job.attempt += 1;
        job.fence += 1;
        job.crowded = false;
        job.held = Some(Held { worker, until: self.now + millis(LEASE) });
        let given = Given { job: at, fence: job.fence, attempt: job.attempt, alone: job.isolated };
        self.refresh();
        given
    }

    fn still_held(&mut self, worker: usize) -> Option<Given> {
        let (last, _) = self.turns.last[worker].clone()?;
        let held = self.is_current(&last) || self.is_held_again(&last);
        held.then(|| Given { alone: self.jobs[last.job].isolated, ..last })
    }

    /// Whether nobody ended this lease yet.
    pub(super) fn is_current(&self, given: &Given) -> bool {
        let job = &self.jobs[given.job];
        job.held.is_some() && job.fence == given.fence
    }

    fn checkpoint(&mut self, lease: usize, secs: u16) -> bool {
        let given = self.leases[lease].clone();
        let held = self.is_current(&given) || self.is_held_again(&given);
        let job = &mut self.jobs[given.job];
        if held && secs > job.checkpoint.0 {
            job.checkpoint = (secs, given.fence);
        }
        held
    }

    /// What the holder of a lease that was taken back proves by its call: it lives. With its job, if nobody has it since.
    fn is_held_again(&mut self, given: &Given) -> bool {
        let (now, job) = (self.now, &mut self.jobs[given.job]);
        let known = job.taken_back.iter().position(|past| past.fence == given.fence);
        let (Some(known), true) = (known, job.is_live() && !job.gone) else { return false };
        let past = job.taken_back.remove(known);
        job.crashes -= u32::from(past.crash);
        job.deaths -= u32::from(past.death);
        if job.deaths < 2 && (past.isolating || job.taken_back.iter().any(|other| other.isolating)) {
            job.isolated = false;
            job.taken_back.iter_mut().for_each(|other| other.isolating = false);
        }
        let nobody_else = job.held.is_none() && job.fence == given.fence;
        if nobody_else {
            job.held = Some(Held { worker: past.worker, until: now + millis(LEASE) });
            job.state = JobState::Running;
            job.attempt += 1;
            job.crowded = false;
        }
        self.refresh();
        nobody_else
    }

    fn renew(&mut self, lease: usize) -> Renewal {
        let given = self.leases[lease].clone();
        if !self.is_current(&given) && !self.is_held_again(&given) {
            return Renewal::Lost;
        }
        let until = self.now + millis(LEASE);
        let job = &mut self.jobs[given.job];
        job.graces = 0;
        if let Some(held) = &mut job.held {
            held.until = until;
        }
        if job.unwanted {
            Renewal::CancelRequested
        } else {
            Renewal::Held { expires_at: Timestamp::from_millis(until) }
        }
    }

    fn finish(
        &mut self,
        call: &'static str,
        lease: usize,
        act: impl FnOnce(&mut Self, usize) -> JobState,
    ) -> Finish {
        let given = self.leases[lease].clone();
        let at = given.job;
        if !self.is_current(&given) && !self.is_held_again(&given) {
            let same = self.jobs[at]
                .past
                .filter(|past| !self.jobs[at].gone && (past.0, past.1) == (call, given.fence));
            return same.map_or(Finish::Stale, |(.., state)| Finish::Done(state));
        }
        let state = act(self, at);
        self.move_to(at, state);
        self.jobs[at].past = Some((call, given.fence, state));
        Finish::Done(state)
    }

    fn failed(&mut self, at: usize, kind: FailureKind) -> JobState {
        if self.jobs[at].unwanted {
            return JobState::Cancelled;
        }
        let step = next_step(&self.policy.retry, self.jobs[at].attempt, &JobFailure::new(kind, ""), JITTER);
        if let NextStep::Retry { refund: true, .. } = step {
            self.jobs[at].attempt -= 1;
            self.settle(at, 0);
        }
        self.try_again(at, step)
    }

    fn released(&mut self, at: usize) -> JobState {
        self.settle(at, 0);
        if self.jobs[at].unwanted {
            return JobState::Cancelled;
        }
        self.head -= 1;
        self.jobs[at].position = self.head;
        self.jobs[at].attempt -= 1;
        JobState::Queued
    }

    fn try_again(&mut self, at: usize, step: NextStep) -> JobState {
        let NextStep::Retry { delay, .. } = step else { return JobState::Failed };
        self.jobs[at].due = self.now + millis(delay);
        JobState::Delayed
    }

    /// Nobody holds the job any more, and it is in this state.
    fn move_to(&mut self, at: usize, state: JobState) {
        let job = &mut self.jobs[at];
        job.held = None;
        job.graces = 0;
        job.state = state;
        job.since = self.now;
        if state.is_terminal() {
            job.taken_back.clear();
            job.finished_at = self.now;
            job.expires_at = self.now + millis(self.policy.result_retention);
        }
        self.refresh();
    }

    fn cancel(&mut self, ticket: usize) {
        if self.status(ticket).is_some_and(|status| !status.is_terminal()) {
            self.end_apart(ticket, SubmissionStatus::Cancelled);
        }
    }

    /// The job goes with the last ticket that waits for it: at once, or when its worker hears that it was cancelled.
    fn end_apart(&mut self, ticket: usize, how: SubmissionStatus) {
        self.tickets[ticket].ended = Some(how);
        let at = self.tickets[ticket].job;
        if self.waits(at) {
            return;
        }
        match how {
            SubmissionStatus::Failed => self.move_to(at, JobState::Failed),
            _ if self.jobs[at].is(JobState::Running) => self.jobs[at].unwanted = true,
            _ => self.move_to(at, JobState::Cancelled),
        }
    }

    fn delete(&mut self, ticket: usize) -> Option<DeleteOutcome> {
        if !self.status(ticket)?.is_terminal() {
            self.cancel(ticket);
            return Some(DeleteOutcome::Cancelled);
        }
        self.tickets[ticket].gone = true;
        let at = self.tickets[ticket].job;
        if !self.jobs[at].is_live() && self.tickets.iter().all(|other| other.gone || other.job != at) {
            self.forget(at);
        }
        Some(DeleteOutcome::Removed)
    }

    fn forget(&mut self, at: usize) {
        self.jobs[at].gone = true;
        for ticket in self.tickets.iter_mut().filter(|ticket| ticket.job == at) {
            ticket.gone = true;
        }
    }

    /// `None` for a refusal.
    fn redrive(&mut self, at: usize) -> Option<bool> {
        if !self.jobs[at].is(JobState::Failed) {
            return Some(false);
        }
        let (tenant, work) = (self.jobs[at].tenant, self.jobs[at].work);
        if !self.waits(at) || self.live(tenant, work).is_some() || self.fresh(tenant, work).is_some() {
            return None;
        }
        self.tail += 1;
        let job = &mut self.jobs[at];
        (job.attempt, job.deaths, job.crashes, job.position) = (0, 0, 0, self.tail);
        job.ends_at = self.now + millis(self.policy.max_age);
        self.move_to(at, JobState::Queued);
        Some(true)
    }

    /// What happens because it is that late now.
    fn upkeep(&mut self) {
        for ticket in 0..self.tickets.len() {
            if self.tickets[ticket].deadline.take_if(|deadline| *deadline <= self.now).is_some()
                && self.status(ticket).is_some_and(|status| !status.is_terminal())
            {
                self.end_apart(ticket, SubmissionStatus::Failed);
            }
        }
        for at in 0..self.jobs.len() {
            self.end_if_old(at);
        }
        let here = self.last_tick.is_some_and(|last| self.now - last < millis(AWAY));
        self.last_tick = Some(self.now);
        if !here {
            self.back = self.now;
        }
        let until =
            |at: &usize| self.jobs[*at].held.as_ref().map(|held| held.until).filter(|end| *end <= self.now);
        let mut lapsed: Vec<_> = (0..self.jobs.len()).filter(|at| until(at).is_some()).collect();
        lapsed.sort_by_key(until);
        for at in lapsed {
            let again = self.back + millis(LEASE);
            let job = &mut self.jobs[at];
            match &mut job.held {
                Some(held) if self.now < again && job.graces < MOST_GRACES => {
                    held.until = again;
                    job.graces += 1;
                }
                _ => self.take_back(at),
            }
        }
        for at in 0..self.jobs.len() {
            if self.jobs[at].is(JobState::Delayed) && self.jobs[at].due <= self.now {
                self.move_to(at, JobState::Queued);
            }
            if !self.jobs[at].is_live() && self.jobs[at].expires_at <= self.now {
                self.forget(at);
            }
        }
    }

    /// Whether the job ended, because its time is up.
    pub(super) fn end_if_old(&mut self, at: usize) -> bool {
        let job = &self.jobs[at];
        let old = job.is_live() && job.ends_at <= self.now;
        if old {
            self.move_to(at, if job.unwanted { JobState::Cancelled } else { JobState::Failed });
        }
        old
    }

    /// Its worker died. That counts unless the job got further under it: two deaths isolate it, and it is to blame for those
    /// that met it alone.
    fn take_back(&mut self, at: usize) {
        let Some(Held { worker, .. }) = self.jobs[at].held.take() else { return };
        let mut in_company = self.jobs[at].crowded;
        for other in self.jobs.iter_mut().filter(|job| job.is_held_by(worker)) {
            other.crowded = true;
            in_company = true;
        }
        let job = &mut self.jobs[at];
        if job.unwanted {
            return self.move_to(at, JobState::Cancelled);
        }
        let mut state = JobState::Queued;
        let before = (job.deaths, job.crashes, job.isolated);
        if job.checkpoint.1 != job.fence {
            job.deaths += 1;
            job.isolated |= job.deaths >= 2;
            if !in_company {
                job.crashes += 1;
                let retry = RetryPolicy { max_attempts: self.policy.retry.max_crashes, ..self.policy.retry };
                let lost = JobFailure::new(FailureKind::WorkerLost, "");
                let step = next_step(&retry, job.crashes, &lost, JITTER);
                state = self.try_again(at, step);
            }
        }
        if state != JobState::Failed {
            let job = &mut self.jobs[at];
            job.attempt -= 1;
            job.taken_back.push(TakenBack {
                fence: job.fence,
                worker,
                death: job.deaths > before.0,
                crash: job.crashes > before.1,
                isolating: job.isolated != before.2,
            });
        }
        self.move_to(at, state);
    }
}
