//! A reference model of the job store: what DESIGN.md says, as plainly as it can be written, without indexes or SQL.
//! A property test draws operations, [`replay`] runs them on a store and on the model and compares after each.

mod reference;

use std::time::Duration;

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::WorkerId;
use verbatim_core::job::{Completion, JobState, Lease, NewSubmission, SubmissionStatus};
use verbatim_core::options::Priority;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{BlobKey, JobClient, JobLeases, JobUpkeep};

use super::virtual_world::count_of;
use super::{Harness, Verdict, World, ensure, ensure_eq};
use reference::Model;

/// One step of a random history. The numbers pick from what there is, modulo how much there is.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what is picked")]
pub enum Op {
    /// Submits one of a few works.
    Submit { work: u8, tier: u8 },
    /// One of a few workers claims.
    Claim { worker: u8, max: u8, says_idle: bool },
    /// The holder of any lease ever given completes.
    Complete { lease: u8 },
    /// The holder of any lease ever given fails.
    Fail { lease: u8, permanent: bool },
    /// The holder of any lease ever given releases.
    Release { lease: u8 },
    /// The holder of any lease ever given renews.
    Renew { lease: u8 },
    /// One of the submissions is cancelled.
    Cancel { submission: u8 },
    /// One of the submissions is deleted.
    Delete { submission: u8 },
    /// Time passes, and upkeep follows.
    Pass { secs: u16 },
}

/// Rules under which a short history meets every limit.
pub fn brisk_policy() -> StorePolicy {
    StorePolicy {
        dedupe_ttl: Duration::from_secs(120),
        result_retention: Duration::from_secs(300),
        max_age: Duration::from_secs(900),
        ..StorePolicy::default()
    }
}

/// Runs the history on a fresh store and on the model.
///
/// # Errors
/// The first step after which they differ.
pub async fn replay<H: Harness>(harness: &H, ops: &[Op]) -> Verdict {
    let world = World::with_policy(harness, brisk_policy()).await?;
    let workers: Vec<_> = (0..3).map(|_| world.worker()).collect();
    let mut run = Run { model: Model::new(world.policy), world: &world, workers, leases: Vec::new() };
    for (number, op) in ops.iter().enumerate() {
        let compared = match run.step(op).await {
            Ok(()) => run.compare().await,
            failed => failed,
        };
        compared.map_err(|violation| {
            super::Violation::new(format!("after step {number}, {op:?}: {violation}"))
        })?;
    }
    world.audit().await
}

struct Run<'w, 'h, H: Harness> {
    world: &'w World<'h, H>,
    model: Model,
    workers: Vec<WorkerId>,
    leases: Vec<Lease>,
}

fn pick<T>(items: &[T], number: u8) -> Option<&T> {
    items.get(usize::from(number).checked_rem(items.len())?)
}

impl<H: Harness> Run<'_, '_, H> {
    async fn step(&mut self, op: &Op) -> Verdict {
        match *op {
            Op::Submit { work, tier } => self.submit(work, tier).await,
            Op::Claim { worker, max, says_idle } => self.claim(worker, usize::from(max), says_idle).await,
            Op::Cancel { submission } => self.cancel(submission).await,
            Op::Delete { submission } => self.delete(submission).await,
            Op::Pass { secs } => {
                self.world.pass(Duration::from_secs(secs.into())).await?;
                self.model.settle(self.world.now());
                Ok(())
            }
            _ => self.use_lease(op).await,
        }
    }

    async fn submit(&mut self, work: u8, tier: u8) -> Verdict {
        let priority = Priority::ALL[usize::from(tier) % Priority::ALL.len()];
        let work = format!("work {}", work % 5);
        let new = NewSubmission { priority, ..self.world.upload(&work) };
        let outcome = self.world.store.submit(new.clone()).await?;
        let (job, cached, attached) = self.model.submit(&new, self.world.now());
        ensure_eq!(outcome.submission.job_id, job, "the job of a submission");
        let told = (outcome.submission.cached, outcome.submission.deduplicated, outcome.blob_adopted);
        ensure_eq!(told, (cached, attached, !cached && !attached), "whether it is cached, attached, adopted");
        Ok(())
    }

    async fn claim(&mut self, worker: u8, max: usize, says_idle: bool) -> Verdict {
        let Some(worker) = pick(&self.workers, worker) else { return Ok(()) };
        let request = self.world.request(worker, max, says_idle);
        let leases = self.world.store.claim(request.clone()).await?;
        self.model.claimed(&request, &leases, self.world.now())?;
        self.leases.extend(leases);
        Ok(())
    }

    async fn cancel(&mut self, number: u8) -> Verdict {
        let Some(id) = pick(self.model.tickets(), number).cloned() else { return Ok(()) };
        let found = self.world.store.cancel(&self.world.tenant(), &id).await?;
        self.model.cancel(&id, self.world.now());
        ensure_eq!(
            found.map(|submission| submission.status),
            self.model.status(&id),
            "the answer to a cancellation"
        );
        Ok(())
    }

    async fn delete(&mut self, number: u8) -> Verdict {
        let Some(id) = pick(self.model.tickets(), number).cloned() else { return Ok(()) };
        let outcome = self.world.store.delete(&self.world.tenant(), &id).await?;
        ensure_eq!(outcome, self.model.delete(&id, self.world.now()), "the answer to a deletion");
        Ok(())
    }

    async fn use_lease(&mut self, op: &Op) -> Verdict {
        let (Op::Complete { lease } | Op::Fail { lease, .. } | Op::Release { lease } | Op::Renew { lease }) =
            *op
        else {
            return Ok(());
        };
        let Some(token) = pick(&self.leases, lease).map(|lease| lease.token.clone()) else { return Ok(()) };
        let (store, now) = (&self.world.store, self.world.now());
        match *op {
            Op::Complete { .. } => {
                let result = BlobKey::for_result(&token);
                let completion = Completion { result, duration_ms: 1000, engine: "fake".to_owned() };
                let finish = store.complete(&token, completion).await?;
                ensure_eq!(finish, self.model.complete(&token, now), "the answer to a completion");
            }
            Op::Fail { permanent, .. } => {
                let kind = if permanent { FailureKind::BadAudio } else { FailureKind::EngineFailed };
                let failure = JobFailure::new(kind, "it failed");
                let finish = store.fail(&token, failure.clone()).await?;
                ensure_eq!(finish, self.model.fail(&token, &failure, now), "the answer to a failure");
            }
            Op::Release { .. } => {
                let finish = store.release(&token).await?;
                ensure_eq!(finish, self.model.release(&token, now), "the answer to a release");
            }
            _ => {
                let renewal = self.world.renew(&token).await?;
                ensure_eq!(renewal, self.model.renew(&token, now), "the answer to a renewal");
            }
        }
        Ok(())
    }

    /// Every submission and every count, on both sides.
    async fn compare(&self) -> Verdict {
        let listed = self.world.list().await?;
        let seen: Vec<_> =
            listed.iter().map(|submission| (&submission.id, submission.status, submission.attempt)).collect();
        let mut expected: Vec<(_, SubmissionStatus, u32)> = self.model.submissions().collect();
        expected.sort_by(|a, b| b.0.cmp(a.0));
        ensure_eq!(seen, expected, "the submissions");
        let stats = self.world.store.stats().await?;
        for state in [
            JobState::Queued,
            JobState::Delayed,
            JobState::Running,
            JobState::Completed,
            JobState::Failed,
            JobState::Cancelled,
        ] {
            ensure_eq!(count_of(&stats, state), self.model.count(state), "jobs that are {}", state.as_str());
        }
        ensure!(stats.submissions == seen.len() as u64, "{} submissions are counted", stats.submissions);
        Ok(())
    }
}
