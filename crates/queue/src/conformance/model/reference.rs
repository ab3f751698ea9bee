//! The model: lists of jobs and submissions, and what the calls of workers do. Whatever was made keeps its number, also
//! when it is forgotten.

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{JobState, SubmissionStatus, TenantCaps};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{Finish, Renewal};
use verbatim_core::retry::{NextStep, next_step};
use verbatim_core::time::Timestamp;

use super::super::virtual_world::{BETWEEN_TICKS, LEASE, jitter_at};
use super::turns::Turns;
use super::{Answer, Op, Resume, TENANTS, Told, millis};

/// A job that a claim gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) job: usize,
    pub(super) fence: u64,
    pub(super) attempt: u32,
    pub(super) alone: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) worker: usize,
    pub(super) until: i64,
}

/// A lease that was taken back, and what was counted for it.
#[derive(Debug, Clone)]
pub(super) struct TakenBack {
    pub(super) fence: u64,
    pub(super) worker: usize,
    pub(super) death: bool,
    pub(super) crash: bool,
    pub(super) isolating: bool,
}

/// What watchers of a job are told.
#[derive(Debug, Clone)]
pub(super) struct Story {
    /// The last event before the end, and how many there were.
    pub(super) latest: Told,
    pub(super) events: u32,
    /// Segments of the attempt that counts.
    pub(super) segments: u32,
    /// Progress in percent, and whether a worker has told it in this attempt.
    pub(super) progress: (u8, bool),
    /// How often the job was begun afresh by hand, which tells the story anew.
    pub(super) lives: u32,
}

impl Story {
    /// The job waits. Progress is forgotten; segments count until the next attempt begins.
    pub(super) fn queued(&mut self, attempt: u32) {
        self.tell(Told::Queued(attempt));
        self.progress = (0, false);
    }

    fn started(&mut self, attempt: u32) {
        self.tell(Told::Started(attempt));
        (self.segments, self.progress) = (0, (0, false));
    }

    fn tell(&mut self, what: Told) {
        self.latest = what;
        self.events += 1;
    }
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) tenant: usize,
    pub(super) work: u8,
    pub(super) class: usize,
    pub(super) tier: usize,
    pub(super) secs: u64,
    pub(super) state: JobState,
    pub(super) gone: bool,
    pub(super) ends_at: i64,
    pub(super) position: i64,
    /// Since when it is queued.
    pub(super) since: i64,
    pub(super) due: i64,
    pub(super) finished_at: i64,
    pub(super) expires_at: i64,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
    pub(super) deaths: u32,
    pub(super) isolated: bool,
    /// How far its checkpoints came, in seconds of audio, and under which fence they moved last.
    pub(super) checkpoint: (u16, u64),
    /// The last checkpoint, from which the next worker goes on.
    pub(super) resume: Option<Resume>,
    pub(super) story: Story,
    pub(super) crowded: bool,
    pub(super) unwanted: bool,
    pub(super) held: Option<Held>,
    /// Leases in a row that were given because the store had been away.
    pub(super) graces: u32,
    pub(super) taken_back: Vec<TakenBack>,
    pub(super) fence: u64,
    pub(super) past: Option<(&'static str, u64, JobState)>,
    /// The tier and the seconds that its tenant paid for the last claim.
    pub(super) charge: (usize, i64),
}

#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) job: usize,
    pub(super) deadline: Option<i64>,
    /// How it ended apart from its job.
    pub(super) ended: Option<SubmissionStatus>,
    /// How often its job had been begun afresh by hand when it ended apart from it.
    pub(super) lives: u32,
    /// Whether a finished job answered it.
    pub(super) cached: bool,
    pub(super) gone: bool,
}

/// What the client of a tenant called a request, and the submission that it made.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) tenant: usize,
    pub(super) key: u8,
    pub(super) body: u8,
    pub(super) ticket: usize,
    pub(super) until: i64,
}

/// What the store should be.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) policy: StorePolicy,
    pub(super) now: i64,
    pub(super) jobs: Vec<Job>,
    pub(super) tickets: Vec<Ticket>,
    pub(super) leases: Vec<Given>,
    /// How many segments the holder of each lease has reported.
    pub(super) reported: Vec<u32>,
    /// The newest last.
    pub(super) named: Vec<Named>,
    pub(super) caps: [TenantCaps; TENANTS.len()],
    /// Those that no submission lifts.
    pub(super) set_caps: [TenantCaps; TENANTS.len()],
    pub(super) turns: Turns,
    pub(super) head: i64,
    pub(super) tail: i64,
    pub(super) last_tick: Option<i64>,
    /// When the store was found again after a silence.
    pub(super) back: i64,
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

    pub(super) fn is_live(&self) -> bool {
        !self.state.is_terminal()
    }
}

impl Model {
    pub(super) fn empty(now: Timestamp, policy: StorePolicy) -> Self {
        Self {
            policy,
            now: now.as_millis(),
            jobs: Vec::new(),
            tickets: Vec::new(),
            leases: Vec::new(),
            reported: Vec::new(),
            named: Vec::new(),
            caps: Default::default(),
            set_caps: Default::default(),
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
            Op::SetCaps { tenant, caps } => self.cap(tenant, caps),
            Op::Claim { worker, says_idle } => {
                let given = self.claim(worker, says_idle);
                self.leases.extend(given.iter().cloned());
                self.reported.resize(self.leases.len(), 0);
                self.given(given)
            }
            Op::ClaimAgain { worker } => {
                let held = self.still_held(worker);
                self.given(held)
            }
            Op::Complete { lease, secs } => Answer::Finish(self.finish("complete", lease, |model, at| {
                model.settle(at, i64::from(secs));
                if model.jobs[at].unwanted { JobState::Cancelled } else { JobState::Completed }
            })),
            Op::Fail { lease, kind } => {
                Answer::Finish(self.finish("fail", lease, |model, at| model.failed(at, kind)))
            }
            Op::Release { lease } => Answer::Finish(self.finish("release", lease, Self::released)),
            Op::Report { lease, again: _, more, percent, checkpoint } => {
                Answer::Reported(self.report(lease, more, percent, checkpoint))
            }
            Op::Watch { .. } => Answer::Nothing,
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

    fn given(&self, given: Option<Given>) -> Answer {
        let resume = given.as_ref().and_then(|given| self.jobs[given.job].resume);
        Answer::Given(given, resume)
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
        let most = self.caps[tenant]
            .max_running
            .map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        most.saturating_sub(self.running(tenant))
    }

    /// Jobs of the tenant that run.
    pub(super) fn running(&self, tenant: usize) -> usize {
        self.jobs.iter().filter(|job| job.tenant == tenant && job.is(JobState::Running)).count()
    }

    pub(super) fn lease(&mut self, at: usize, worker: usize) -> Given {
        let job = &mut self.jobs[at];
        job.state = JobState::Running;
        job.attempt += 1;
        job.fence += 1;
        job.crowded = false;
        job.held = Some(Held { worker, until: self.now + millis(LEASE) });
        job.story.started(job.attempt);
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

    /// The holder has `more` segments. Those that it tells of again are no news.
    fn report(&mut self, lease: usize, more: u8, percent: Option<u8>, checkpoint: Option<u16>) -> bool {
        let given = self.leases[lease].clone();
        if !self.is_current(&given) && !self.is_held_again(&given) {
            return false;
        }
        let Job { story, .. } = &mut self.jobs[given.job];
        let told = self.reported[lease] + u32::from(more);
        for index in story.segments..told {
            story.tell(Told::Segment(index));
        }
        story.segments = story.segments.max(told);
        self.reported[lease] = told;
        if let Some(percent) = percent.filter(|percent| story.progress != (*percent, true)) {
            story.tell(Told::Progress(percent));
            story.progress = (percent, true);
        }
        if let Some(secs) = checkpoint {
            let job = &mut self.jobs[given.job];
            job.resume = Some((secs, told));
            if secs > job.checkpoint.0 {
                job.checkpoint = (secs, given.fence);
            }
        }
        true
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
        let failure = JobFailure::new(kind, "");
        let step = next_step(&self.policy.retry, self.jobs[at].attempt, &failure, jitter_at(self.now));
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

    pub(super) fn try_again(&mut self, at: usize, step: NextStep) -> JobState {
        let NextStep::Retry { delay, .. } = step else { return JobState::Failed };
        self.jobs[at].due = self.now + millis(delay);
        JobState::Delayed
    }

    /// Nobody holds the job any more, and it is in this state.
    pub(super) fn move_to(&mut self, at: usize, state: JobState) {
        let job = &mut self.jobs[at];
        // Watchers heard of one that was delayed when it began to wait.
        if !state.is_terminal() && job.state != JobState::Delayed {
            job.story.queued(job.attempt);
        }
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
        job.story.lives += 1;
        job.ends_at = self.now + millis(self.policy.max_age);
        self.move_to(at, JobState::Queued);
        Some(true)
    }
}
