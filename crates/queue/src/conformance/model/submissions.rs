//! Submissions of the model: new work, work that is there, requests that are repeated under their name, what there is room
//! for; and how submissions go.

use verbatim_core::Refusal;
use verbatim_core::caps::AtCap;
use verbatim_core::job::{JobState, SubmissionStatus, TenantCaps};
use verbatim_core::ports::jobs::DeleteOutcome;

use super::reference::{Job, Model, Named, Story, Ticket};
use super::{Answer, TENANTS, Told, Work, class_of, millis};

impl Model {
    /// Tickets of the job that still wait for it or were told how it ended.
    pub(super) fn waits(&self, job: usize) -> bool {
        self.tickets.iter().any(|ticket| ticket.job == job && !ticket.gone && ticket.ended.is_none())
    }

    pub(super) fn live(&self, tenant: usize, work: u8) -> Option<usize> {
        self.jobs.iter().position(|job| {
            (job.tenant, job.work) == (tenant, work) && !job.gone && job.is_live() && !job.unwanted
        })
    }

    pub(super) fn fresh(&self, tenant: usize, work: u8) -> Option<usize> {
        let ttl = millis(self.policy.dedupe_ttl);
        self.jobs.iter().position(|job| {
            let same = (job.tenant, job.work) == (tenant, work);
            same && job.is(JobState::Completed) && job.finished_at + ttl > self.now
        })
    }

    pub(super) fn submit(&mut self, new: &Work) -> Answer {
        if let Some(earlier) = self.named_as(new) {
            let same = (earlier.body == new.work).then_some(earlier.ticket);
            return same
                .map_or(Answer::Conflict, |ticket| Answer::Replayed { job: self.tickets[ticket].job });
        }
        let (fresh, live) = (self.fresh(new.tenant, new.work), self.live(new.tenant, new.work));
        let (cached, attached) = (fresh.is_some(), fresh.is_none() && live.is_some());
        let is_new = !cached && !attached;
        if let Some(refusal) = self.refusal(new, is_new) {
            return Answer::Refused(refusal);
        }
        if let Some(key) = new.key {
            let until = self.now + millis(self.policy.idempotency_ttl);
            let ticket = self.tickets.len();
            self.named.push(Named { tenant: new.tenant, key, body: new.work, ticket, until });
        }
        self.caps[new.tenant] = self.set_caps[new.tenant].strictest(new.caps);
        let job = fresh.or(live).unwrap_or_else(|| self.new_job(new));
        if cached {
            let keep = self.now + millis(self.policy.result_retention);
            self.jobs[job].expires_at = self.jobs[job].expires_at.max(keep);
        }
        if attached {
            self.jobs[job].tier = self.jobs[job].tier.min(new.tier);
        }
        let deadline = new.deadline.filter(|_| !cached).map(|secs| self.now + i64::from(secs) * 1000);
        self.tickets.push(Ticket { job, deadline, ended: None, lives: 0, cached, gone: false });
        Answer::Submitted { job, cached, attached }
    }

    /// From now on no submission lifts these.
    pub(super) fn cap(&mut self, tenant: usize, caps: TenantCaps) -> Answer {
        self.set_caps[tenant] = caps;
        self.caps[tenant] = caps;
        let full = |taken: usize, most: Option<u64>| u64::from(most.is_some_and(|most| taken as u64 >= most));
        let running = full(self.running(tenant), caps.max_running);
        Answer::Capped(AtCap { running, queued: full(self.waiting(tenant), caps.max_queued) })
    }

    /// Jobs of the tenant that wait.
    fn waiting(&self, tenant: usize) -> usize {
        let waits = |job: &&Job| job.is(JobState::Queued) || job.is(JobState::Delayed);
        self.jobs.iter().filter(|job| job.tenant == tenant).filter(waits).count()
    }

    /// The earlier request of the same name, while that and its submission are remembered.
    fn named_as(&self, new: &Work) -> Option<&Named> {
        let key = new.key?;
        let last = self.named.iter().rfind(|named| (named.tenant, named.key) == (new.tenant, key))?;
        Some(last).filter(|named| self.now < named.until && !self.tickets[named.ticket].gone)
    }

    /// Why there is no room for a submission, or for one that is new work.
    fn refusal(&self, new: &Work, is_new: bool) -> Option<Refusal> {
        let room = |taken: usize, most: Option<u64>| most.is_none_or(|most| (taken as u64) < most);
        if !room(self.remembered_of(new.tenant), self.policy.max_remembered) {
            return Some(Refusal::TooManyRemembered);
        }
        if let Some(refusal) = self.no_share(new.tenant) {
            return Some(refusal);
        }
        let waiting: usize = (0..TENANTS.len()).map(|tenant| self.waiting(tenant)).sum();
        let of_tenant = self.waiting(new.tenant);
        let most = self.set_caps[new.tenant].strictest(new.caps).max_queued;
        let full = !room(waiting, self.policy.max_waiting) || !room(of_tenant, most);
        (is_new && full).then_some(Refusal::QueueFull)
    }

    /// Tickets of the tenant that are remembered.
    pub(super) fn remembered_of(&self, tenant: usize) -> usize {
        let whose = |ticket: &&Ticket| !ticket.gone && self.jobs[ticket.job].tenant == tenant;
        self.tickets.iter().filter(whose).count()
    }

    /// Up to seven eighths of the limit there is room for everybody. Of the last eighth only those get some who hold less than an
    /// equal part of all.
    fn no_share(&self, tenant: usize) -> Option<Refusal> {
        let limit = usize::try_from(self.policy.max_remembered_of_all?).unwrap_or(usize::MAX);
        let each: Vec<usize> = (0..TENANTS.len()).map(|tenant| self.remembered_of(tenant)).collect();
        let (total, own) = (each.iter().sum::<usize>(), each[tenant]);
        if total >= limit {
            return Some(Refusal::StoreLimit);
        }
        let reserve = if limit < 2 { 0 } else { limit.div_ceil(8) };
        let others = (0..TENANTS.len()).filter(|other| *other != tenant && each[*other] > 0).count();
        let part = if others == 0 { limit - reserve } else { (limit / (others + 1)).max(1) };
        (total + reserve >= limit && own >= part).then_some(Refusal::StoreShare)
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
            resume: None,
            story: Story { latest: Told::Queued(0), events: 1, segments: 0, progress: (0, false), lives: 0 },
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

    pub(super) fn cancel(&mut self, ticket: usize) {
        if self.status(ticket).is_some_and(|status| !status.is_terminal()) {
            self.end_apart(ticket, SubmissionStatus::Cancelled);
        }
    }

    /// The job goes with the last ticket that waits for it: at once, or when its worker hears that it was cancelled.
    pub(super) fn end_apart(&mut self, ticket: usize, how: SubmissionStatus) {
        let lives = self.jobs[self.tickets[ticket].job].story.lives;
        let ended = &mut self.tickets[ticket];
        (ended.ended, ended.lives) = (Some(how), lives);
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

    pub(super) fn delete(&mut self, ticket: usize) -> Option<DeleteOutcome> {
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

    pub(super) fn forget(&mut self, at: usize) {
        self.jobs[at].gone = true;
        for ticket in self.tickets.iter_mut().filter(|ticket| ticket.job == at) {
            ticket.gone = true;
        }
    }
}
