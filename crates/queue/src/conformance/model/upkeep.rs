//! What happens in the model because time passes, and the way back for a worker that was thought dead.

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{JobState, SubmissionStatus};
use verbatim_core::retry::{RetryPolicy, next_step};

use super::super::virtual_world::{LEASE, jitter_at};
use super::millis;
use super::reference::{Given, Held, Model, TakenBack};
use crate::{AWAY, MOST_GRACES};

impl Model {
    /// What happens because it is that late now.
    pub(super) fn upkeep(&mut self) {
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
                let step = next_step(&retry, job.crashes, &lost, jitter_at(self.now));
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

    /// What the holder of a lease that was taken back proves by its call: it lives. With its job, if nobody has it since.
    pub(super) fn is_held_again(&mut self, given: &Given) -> bool {
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
}
