//! Who is served next: tiers by weight, tenants of a tier by seconds of audio, suspects alone.
//!
//! Start-time fair queueing in its plainest form. A tenant can be served in a tier while it has jobs there and is below
//! its cap; then its tag is not behind the tier's virtual time, which is the tag under which the last job was served.

use verbatim_core::job::JobState;
use verbatim_core::options::Priority;

use super::reference::{Given, Model};
use super::{TENANTS, WORKERS};
use crate::MOST_TOO_OLD;

/// What a job costs a tier of weight 1.
const UNIT: i64 = 64;

/// How much service tenants and tiers have had. Tiers are in the order of [`Priority::ALL`].
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// What tenants have had in each tier, in seconds.
    tags: [[i64; 3]; TENANTS.len()],
    /// The virtual time of each tier.
    virtual_time: [i64; 3],
    /// When the last job of each tier is over, in the virtual time of all tiers.
    tier_finish: [i64; 3],
    tiers_time: i64,
    /// The worker that is kept for a suspect, and until when.
    kept: Option<(usize, i64)>,
    /// The last claim of each worker that got something: its answer, and until when it can be repeated.
    pub(super) last: [Option<(Given, i64)>; WORKERS],
}

impl Model {
    /// What a claim gives. It ends jobs that are too old on its way, which cost nobody anything.
    pub(super) fn claim(&mut self, worker: usize, says_idle: bool) -> Option<Given> {
        let held: Vec<_> = self.jobs.iter().filter(|job| job.is_held_by(worker)).collect();
        if held.iter().any(|job| job.isolated) {
            return None;
        }
        let idle = says_idle && held.is_empty();
        if idle {
            self.turns.kept.take_if(|(kept, _)| *kept == worker);
        }
        for _ in 0..MOST_TOO_OLD {
            let (job, tier) = self.next(worker, idle)?;
            if !self.end_if_old(job) {
                let given = self.serve(job, tier, worker);
                self.turns.last[worker] = Some((given.clone(), self.now + super::REPEATABLE));
                return Some(given);
            }
        }
        None
    }

    /// The job that is next, and the tier whose turn it is; `None` for one that is served whatever its tier.
    fn next(&mut self, worker: usize, idle: bool) -> Option<(usize, Option<usize>)> {
        match self.overdue() {
            Some(job) if idle => Some((job, None)),
            Some(_) if self.keeps(worker) => None,
            _ => self.next_by_turns(idle),
        }
    }

    fn queued(&self, isolated: bool) -> impl Iterator<Item = usize> {
        (0..self.jobs.len()).filter(move |at| {
            let job = &self.jobs[*at];
            job.is(JobState::Queued) && job.isolated == isolated && self.may_run_more(job.tenant)
        })
    }

    /// The suspect that has waited longest, if that is too long.
    fn overdue(&self) -> Option<usize> {
        let patience = super::millis(self.policy.alone_patience);
        self.queued(true)
            .filter(|at| self.jobs[*at].since + patience < self.now)
            .min_by_key(|at| (self.jobs[*at].since, *at))
    }

    /// Whether this busy worker is kept for a suspect, from now on if nobody is.
    fn keeps(&mut self, worker: usize) -> bool {
        let until = self.now + super::millis(self.policy.alone_patience);
        let now = self.now;
        let kept = self.turns.kept.take_if(|(_, until)| *until > now).unwrap_or((worker, until));
        self.turns.kept = Some(kept);
        kept.0 == worker
    }

    fn next_by_turns(&self, idle: bool) -> Option<(usize, Option<usize>)> {
        let candidate = |tier: usize| {
            let suspects = self.queued(true).filter(|at| idle && self.jobs[*at].tier == tier);
            suspects.min_by_key(|at| self.jobs[*at].position).or_else(|| self.next_in_turn(tier))
        };
        let candidates = (0..3).filter_map(|tier| candidate(tier).map(|job| (job, Some(tier))));
        candidates.min_by_key(|(_, tier)| tier.map(|tier| self.due(tier)))
    }

    /// When the tier's next job begins, in the virtual time of all tiers.
    fn due(&self, tier: usize) -> i64 {
        self.turns.tier_finish[tier].max(self.turns.tiers_time)
    }

    /// The first job of the tenant that has had least.
    fn next_in_turn(&self, tier: usize) -> Option<usize> {
        let tag = |tenant: usize| self.turns.tags[tenant][tier];
        self.queued(false).filter(|at| self.jobs[*at].tier == tier).min_by_key(|at| {
            let job = &self.jobs[*at];
            (tag(job.tenant), job.tenant, job.position)
        })
    }

    /// Tenant and tier pay. Virtual time moves on to the start of a job that is served in turn, not to that of a suspect.
    fn serve(&mut self, at: usize, tier: Option<usize>, worker: usize) -> Given {
        if let Some(tier) = tier {
            let start = self.due(tier);
            self.turns.tiers_time = start;
            self.turns.tier_finish[tier] = start + UNIT / i64::from(Priority::ALL[tier].weight());
        }
        let job = &mut self.jobs[at];
        let (tenant, tier) = (job.tenant, job.tier);
        let secs = i64::try_from(job.secs.max(1)).unwrap_or(i64::MAX);
        job.charge = (tier, secs);
        let (tag, virtual_time) = (&mut self.turns.tags[tenant][tier], &mut self.turns.virtual_time[tier]);
        *tag = (*tag).max(*virtual_time);
        if !job.isolated {
            *virtual_time = *tag;
        }
        *tag += secs;
        self.lease(at, worker)
    }

    /// The tenant pays or gets back what its job took more or less than it was charged.
    pub(super) fn settle(&mut self, at: usize, actual: i64) {
        let (tier, charged) = self.jobs[at].charge;
        let tag = &mut self.turns.tags[self.jobs[at].tenant][tier];
        if actual != charged {
            *tag = (*tag + actual - charged).max(self.turns.virtual_time[tier]);
        }
    }

    /// Whoever can be served from now on has saved up nothing. Follows every change.
    pub(super) fn refresh(&mut self) {
        for at in self.queued(false).collect::<Vec<_>>() {
            let (tenant, tier) = (self.jobs[at].tenant, self.jobs[at].tier);
            let tag = &mut self.turns.tags[tenant][tier];
            *tag = (*tag).max(self.turns.virtual_time[tier]);
        }
    }
}
