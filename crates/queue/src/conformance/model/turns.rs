//! Who is served next: tiers by weight, tenants of a tier by seconds of audio, of what the worker can do; isolated jobs to
//! idle workers, or to those that were reserved for them.
//!
//! Start-time fair queueing in its plainest form. A tenant can be served in a tier while it has jobs there and is below
//! its cap; then its tag is not behind the tier's virtual time, which is the greatest tag under which a job was served.

use verbatim_core::job::JobState;
use verbatim_core::options::Priority;

use super::reference::{Given, Model};
use super::{CLASSES, TENANTS, WORKERS, can};
use crate::MOST_TOO_OLD;

/// What a job costs a tier of weight 1.
const UNIT: i64 = 64;

/// How much service tenants and tiers have had. Tiers are in the order of [`Priority::ALL`].
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// What tenants have had in each tier, in seconds.
    tags: [[i64; 3]; TENANTS.len()],
    /// Which of them can be served.
    active: [[bool; 3]; TENANTS.len()],
    /// The virtual time of each tier.
    virtual_time: [i64; 3],
    /// When the last job of each tier is over, in the virtual time of all tiers.
    tier_finish: [i64; 3],
    tiers_time: i64,
    /// The class for whose isolated jobs each worker is reserved.
    pub(super) reserved: [Option<usize>; WORKERS],
    /// When each worker's reservation lapses.
    reserved_until: [i64; WORKERS],
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
        let reserved = self.turns.reserved[worker].filter(|_| self.turns.reserved_until[worker] > self.now);
        if let Some(class) = reserved {
            if !idle && self.could_begin(class) >= self.reserved_for(class) {
                self.reserve(worker, class);
                return None;
            }
            self.turns.reserved[worker] = None;
        }
        for _ in 0..MOST_TOO_OLD {
            let for_it = |model: &Self, at: usize| {
                idle && model.jobs[at].isolated && Some(model.jobs[at].class) == reserved
            };
            let any = |model: &Self, at: usize| {
                let job = &model.jobs[at];
                can(worker, job.class) && (idle || !job.isolated || model.may_be_reserved(job.class))
            };
            let (job, tier) = self.next(for_it).or_else(|| self.next(any))?;
            if self.jobs[job].isolated && !idle {
                self.reserve(worker, self.jobs[job].class);
                return None;
            }
            if !self.end_if_old(job) {
                let given = self.serve(job, tier, worker);
                self.turns.last[worker] = Some((given.clone(), self.now + super::REPEATABLE));
                return Some(given);
            }
        }
        None
    }

    /// Jobs that can be claimed as far as the caps of their tenants go.
    fn queued(&self) -> impl Iterator<Item = usize> {
        (0..self.jobs.len())
            .filter(|at| self.jobs[*at].is(JobState::Queued) && self.may_run_more(self.jobs[*at].tenant))
    }

    /// Until the worker is idle, or for a lease after it has asked for the last time.
    fn reserve(&mut self, worker: usize, class: usize) {
        self.turns.reserved[worker] = Some(class);
        self.turns.reserved_until[worker] = self.now + super::millis(super::super::virtual_world::LEASE);
    }

    /// Workers that are reserved for isolated jobs of the class.
    fn reserved_for(&self, class: usize) -> usize {
        let kept = |worker: &usize| self.turns.reserved_until[*worker] > self.now;
        (0..WORKERS).filter(kept).filter(|worker| self.turns.reserved[*worker] == Some(class)).count()
    }

    /// Isolated jobs of the class that could begin now.
    fn could_begin(&self, class: usize) -> usize {
        let waiting = |tenant: usize, tier: usize| {
            let jobs = self.queued().filter(|at| {
                let job = &self.jobs[*at];
                job.isolated && (job.class, job.tenant, job.tier) == (class, tenant, tier)
            });
            jobs.count().min(self.room(tenant))
        };
        (0..TENANTS.len())
            .flat_map(|tenant| (0..3).map(move |tier| (tenant, tier)))
            .map(|(a, b)| waiting(a, b))
            .sum()
    }

    /// Whether one more worker may be reserved for isolated jobs of the class: one is always, and so few workers allow no
    /// more.
    fn may_be_reserved(&self, class: usize) -> bool {
        let reserved: usize = (0..CLASSES.len()).map(|class| self.reserved_for(class)).sum();
        reserved == 0 && self.could_begin(class) > 0
    }

    /// The job that is next among these, and its tier: that of the tier that is due, the stronger one where two are.
    fn next(&self, among: impl Fn(&Self, usize) -> bool) -> Option<(usize, usize)> {
        let candidates = (0..3).filter_map(|tier| self.next_in_turn(tier, &among).map(|job| (job, tier)));
        candidates.min_by_key(|(_, tier)| self.due(*tier))
    }

    /// When the tier's next job begins, in the virtual time of all tiers.
    fn due(&self, tier: usize) -> i64 {
        self.turns.tier_finish[tier].max(self.turns.tiers_time)
    }

    /// The first job of the tenant that has had least.
    fn next_in_turn(&self, tier: usize, among: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let tag = |tenant: usize| self.turns.tags[tenant][tier];
        self.queued().filter(|at| self.jobs[*at].tier == tier && among(self, *at)).min_by_key(|at| {
            let job = &self.jobs[*at];
            (tag(job.tenant), job.tenant, job.position)
        })
    }

    /// Tenant and tier pay. Virtual time moves on to the start of the job, and never back.
    fn serve(&mut self, at: usize, tier: usize, worker: usize) -> Given {
        let start = self.due(tier);
        self.turns.tiers_time = start;
        self.turns.tier_finish[tier] = start + UNIT / i64::from(Priority::ALL[tier].weight());
        let job = &mut self.jobs[at];
        let secs = i64::try_from(job.secs.max(1)).unwrap_or(i64::MAX);
        job.charge = (tier, secs);
        let (tag, virtual_time) =
            (&mut self.turns.tags[job.tenant][tier], &mut self.turns.virtual_time[tier]);
        *virtual_time = (*virtual_time).max(*tag);
        *tag = *virtual_time + secs;
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

    /// Tenants that can be served from now on have saved up nothing. Follows every change.
    pub(super) fn refresh(&mut self) {
        let mut active = [[false; 3]; TENANTS.len()];
        for at in self.queued() {
            active[self.jobs[at].tenant][self.jobs[at].tier] = true;
        }
        for (tenant, tier) in (0..TENANTS.len()).flat_map(|tenant| (0..3).map(move |tier| (tenant, tier))) {
            if active[tenant][tier] && !self.turns.active[tenant][tier] {
                let tag = &mut self.turns.tags[tenant][tier];
                *tag = (*tag).max(self.turns.virtual_time[tier]);
            }
        }
        self.turns.active = active;
    }
}
