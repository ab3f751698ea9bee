//! A reference model of the job store: what DESIGN.md says, as plainly as it can be written, without indexes or SQL. It
//! predicts every answer, also which jobs a claim gives. [`replay`] runs a history on a store and on the model and
//! compares after each step; `tests/model` draws the histories.

mod reference;
mod turns;

use std::time::Duration;

use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{JobId, TenantId, WorkerId};
use verbatim_core::job::{
    Completion, JobState, Lease, LeaseToken, NewSubmission, Report, SubmissionStatus, TenantCaps,
};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{ClaimRequest, DeadLetterQuery, DeleteOutcome, Finish, ListQuery, Renewal};
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};

use super::virtual_world::{VirtualClock, count_of, tenant};
use super::{Harness, Verdict, Violation, World, ensure_eq};
use reference::Given;
pub use reference::Model;

/// Those who submit.
pub const TENANTS: [&str; 3] = ["ann", "bob", "cat"];
/// How many claim.
pub const WORKERS: usize = 3;
/// What jobs need: a model. The work decides.
const CLASSES: [&str; 3] = ["tiny.en", "base", "small"];
/// The classes that each worker can do; the last can do everything.
const ABLE: [&[usize]; WORKERS] = [&[0], &[0, 1], &[0, 1, 2]];
/// How long a claim can be repeated at least, in milliseconds.
const REPEATABLE: i64 = 600_000;

/// Work of a tenant on its way.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of a submission; tiers in the order of Priority::ALL")]
pub struct Work {
    pub tenant: usize,
    pub work: u8,
    pub tier: usize,
    pub secs: u64,
    pub caps: TenantCaps,
    pub deadline: Option<u16>,
}

/// One step of a history. Numbers name what was made so far, in the order in which it was made.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what is picked")]
pub enum Op {
    /// Submits work.
    Submit(Work),
    /// Submits the same ticket again, with other caps, which do not count.
    Resubmit { ticket: usize, caps: TenantCaps },
    /// A worker claims.
    Claim { worker: usize, says_idle: bool },
    /// A worker repeats its last claim that got something.
    ClaimAgain { worker: usize },
    /// The holder of any lease ever given completes; the audio lasted so long.
    Complete { lease: usize, secs: u16 },
    /// The holder of any lease ever given fails.
    Fail { lease: usize, kind: FailureKind },
    /// The holder of any lease ever given releases.
    Release { lease: usize },
    /// The holder of any lease ever given has come so far, and says so.
    Checkpoint { lease: usize, secs: u16 },
    /// The holder of any lease ever given renews.
    Renew { lease: usize },
    /// A submission is cancelled.
    Cancel { ticket: usize },
    /// A submission is deleted.
    Delete { ticket: usize },
    /// A job is queued afresh, if it is a dead letter.
    Redrive { job: usize },
    /// A job is forgotten, if it is a dead letter.
    Discard { job: usize },
    /// Time passes in which nobody reaches the store.
    Wait { secs: u16 },
    /// Time passes while upkeep goes on.
    Pass { secs: u16 },
    /// Upkeep, until there is nothing to do.
    Upkeep,
}

/// What a step answers.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Nothing,
    Submitted { job: usize, cached: bool, attached: bool },
    Replayed { job: usize },
    Throttled,
    Given(Option<Given>),
    Finish(Finish),
    Reported(bool),
    Renewal(Renewal),
    Status(Option<SubmissionStatus>),
    Deleted(Option<DeleteOutcome>),
    Redriven(Option<bool>),
}

/// The class of the work.
fn class_of(work: u8) -> usize {
    usize::from(work) % CLASSES.len()
}

/// Whether the worker can do jobs of the class.
fn can(worker: usize, class: usize) -> bool {
    ABLE[worker].contains(&class)
}

fn options_of(class: usize) -> TranscribeOptions {
    TranscribeOptions::for_model(CLASSES[class])
}

/// What the worker says that it can do.
fn abilities(worker: usize) -> Abilities {
    if ABLE[worker].len() == CLASSES.len() {
        return Abilities::all();
    }
    Abilities::of(ABLE[worker].iter().map(|class| JobClass::of(&options_of(*class))))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Rules under which a short history meets every limit.
fn brisk_policy() -> StorePolicy {
    StorePolicy {
        dedupe_ttl: Duration::from_secs(120),
        result_retention: Duration::from_secs(300),
        max_age: Duration::from_secs(400),
        ..StorePolicy::default()
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::empty(VirtualClock::default().now())
    }
}

impl Model {
    /// Whether what the step names is there.
    pub fn allows(&self, op: &Op) -> bool {
        match *op {
            Op::Submit(_) | Op::Claim { .. } | Op::Wait { .. } | Op::Pass { .. } | Op::Upkeep => true,
            Op::Resubmit { ticket, .. } => self.tickets.get(ticket).is_some_and(|ticket| !ticket.gone),
            Op::ClaimAgain { worker } => {
                self.turns.last[worker].as_ref().is_some_and(|(_, until)| self.now < *until)
            }
            Op::Complete { lease, .. } | Op::Fail { lease, .. } => lease < self.leases.len(),
            Op::Release { lease } | Op::Checkpoint { lease, .. } | Op::Renew { lease } => {
                lease < self.leases.len()
            }
            Op::Cancel { ticket } | Op::Delete { ticket } => ticket < self.tickets.len(),
            Op::Redrive { job } | Op::Discard { job } => job < self.jobs.len(),
        }
    }

    /// Takes the step.
    pub fn apply(&mut self, op: &Op) {
        self.answer = self.step(op);
        self.refresh();
    }

    /// How many tickets, jobs and leases were ever made.
    pub fn made(&self) -> (usize, usize, usize) {
        (self.tickets.len(), self.jobs.len(), self.leases.len())
    }

    /// The leases that are held.
    pub fn held(&self) -> Vec<usize> {
        (0..self.leases.len()).filter(|lease| self.is_current(&self.leases[*lease])).collect()
    }
}

/// Runs the history on a fresh store and on the model; `seen` hears of each step.
///
/// # Errors
/// The first step after which they differ.
pub async fn replay<H: Harness>(harness: &H, mut model: Model, ops: &[Op], seen: impl Fn()) -> Verdict {
    let world = World::with_policy(harness, model.policy).await?;
    let workers = (0..WORKERS).map(|_| world.worker()).collect();
    let tenants = TENANTS.into_iter().map(tenant).collect::<Verdict<_>>()?;
    let mut run = Run {
        world: &world,
        tenants,
        workers,
        claims: Default::default(),
        tickets: Vec::new(),
        jobs: Vec::new(),
        leases: Vec::new(),
    };
    for (number, op) in ops.iter().enumerate() {
        seen();
        model.apply(op);
        let compared = match run.step(op).await {
            Ok(answer) => run.compare(&model, &answer).await,
            Err(violation) => Err(violation),
        };
        compared.map_err(|violation| Violation::new(format!("after step {number}, {op:?}: {violation}")))?;
    }
    world.audit().await
}

/// The store's side: what the numbers of a history name.
struct Run<'w, 'h, H: Harness> {
    world: &'w World<'h, H>,
    tenants: Vec<TenantId>,
    workers: Vec<WorkerId>,
    claims: [Option<ClaimRequest>; WORKERS],
    tickets: Vec<NewSubmission>,
    jobs: Vec<JobId>,
    leases: Vec<LeaseToken>,
}

impl<H: Harness> Run<'_, '_, H> {
    async fn step(&mut self, op: &Op) -> Verdict<Answer> {
        let (world, store) = (self.world, &self.world.store);
        Ok(match *op {
            Op::Submit(ref work) => self.submit(work).await?,
            Op::Resubmit { ticket, caps } => {
                let again = NewSubmission { caps, ..self.tickets[ticket].clone() };
                let outcome = store.submit(again).await?;
                ensure_eq!(outcome.replayed, true, "whether a ticket is replayed");
                Answer::Replayed { job: self.number_of(&outcome.submission.job_id)? }
            }
            Op::Claim { worker, says_idle } => {
                let request = ClaimRequest {
                    abilities: abilities(worker),
                    ..world.request(&self.workers[worker], says_idle)
                };
                let lease = store.claim(request.clone()).await?;
                if let Some(lease) = &lease {
                    self.claims[worker] = Some(request);
                    self.leases.push(lease.token.clone());
                }
                self.given(lease.as_ref())?
            }
            Op::ClaimAgain { worker } => {
                let Some(request) = self.claims[worker].clone() else { return Ok(Answer::Nothing) };
                let lease = store.claim(request).await?;
                self.given(lease.as_ref())?
            }
            Op::Complete { lease, secs } => {
                let completion = Completion {
                    duration_ms: u64::from(secs) * 1000,
                    ..world.completion(&self.leases[lease])
                };
                Answer::Finish(store.complete(&self.leases[lease], completion).await?)
            }
            Op::Fail { lease, kind } => {
                Answer::Finish(store.fail(&self.leases[lease], JobFailure::new(kind, "it failed")).await?)
            }
            Op::Release { lease } => Answer::Finish(store.release(&self.leases[lease]).await?),
            Op::Checkpoint { lease, secs } => {
                let checkpoint = Checkpoint {
                    revision: "fake-1".to_owned(),
                    position_ms: u64::from(secs) * 1000,
                    segments: Vec::new(),
                    state: serde_json::Value::Null,
                };
                let report = Report { checkpoint: Some(checkpoint), ..Report::default() };
                Answer::Reported(store.report(&self.leases[lease], report).await?)
            }
            Op::Renew { lease } => Answer::Renewal(world.renew(&self.leases[lease]).await?),
            Op::Cancel { ticket } => {
                let ticket = &self.tickets[ticket];
                Answer::Status(store.cancel(&ticket.tenant, &ticket.id).await?.map(|found| found.status))
            }
            Op::Delete { ticket } => {
                let ticket = &self.tickets[ticket];
                Answer::Deleted(store.delete(&ticket.tenant, &ticket.id).await?)
            }
            Op::Redrive { job } => match store.redrive(&self.jobs[job]).await {
                Err(error) if error.kind() == ErrorKind::Conflict => Answer::Redriven(None),
                done => Answer::Redriven(Some(done?)),
            },
            Op::Discard { job } => Answer::Redriven(Some(store.discard_dead_letter(&self.jobs[job]).await?)),
            Op::Wait { secs } => {
                world.clock.advance(Duration::from_secs(secs.into()));
                Answer::Nothing
            }
            Op::Pass { secs } => {
                world.pass(Duration::from_secs(secs.into())).await?;
                Answer::Nothing
            }
            Op::Upkeep => {
                world.settle().await?;
                Answer::Nothing
            }
        })
    }

    async fn submit(&mut self, work: &Work) -> Verdict<Answer> {
        let whose = &self.tenants[work.tenant];
        let new = NewSubmission {
            tenant: whose.clone(),
            dedupe_key: DedupeKey::from_stored(format!("{whose} {}", work.work)),
            priority: Priority::ALL[work.tier],
            estimated_secs: work.secs,
            options: options_of(class_of(work.work)),
            caps: work.caps,
            deadline: work.deadline.map(|secs| Duration::from_secs(secs.into())),
            ..self.world.upload("work")
        };
        let outcome = match self.world.store.submit(new.clone()).await {
            Err(error) if PortError::kind(&error) == ErrorKind::Throttled => return Ok(Answer::Throttled),
            outcome => outcome?,
        };
        let (cached, attached) = (outcome.submission.cached, outcome.submission.deduplicated);
        ensure_eq!(outcome.blob_adopted, !cached && !attached, "whether the audio is adopted");
        if outcome.blob_adopted {
            self.jobs.push(new.job_id.clone());
        }
        self.tickets.push(new);
        Ok(Answer::Submitted { job: self.number_of(&outcome.submission.job_id)?, cached, attached })
    }

    fn number_of(&self, id: &JobId) -> Verdict<usize> {
        let number = self.jobs.iter().position(|job| job == id);
        number.ok_or_else(|| Violation::new(format!("job {id} was never made")))
    }

    fn given(&self, lease: Option<&Lease>) -> Verdict<Answer> {
        let given = lease.map(|lease| {
            let job = self.number_of(&lease.token.job_id)?;
            Verdict::Ok(Given {
                job,
                fence: lease.token.fence.get(),
                attempt: lease.attempt,
                alone: lease.alone,
            })
        });
        Ok(Answer::Given(given.transpose()?))
    }

    /// The answer, every submission, every dead letter and every count, on both sides.
    async fn compare(&self, model: &Model, answer: &Answer) -> Verdict {
        ensure_eq!(answer, &model.answer, "the answer");
        let store = &self.world.store;
        let mut seen = Vec::new();
        for whose in &self.tenants {
            let listed =
                store.list(whose, ListQuery { limit: usize::MAX, ..ListQuery::default() }).await?.submissions;
            seen.extend(
                listed.into_iter().map(|found| (found.id, found.status, found.attempt, found.priority)),
            );
        }
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let expected: Vec<_> = (0..self.tickets.len())
            .filter_map(|ticket| {
                let job = &model.jobs[model.tickets[ticket].job];
                let status = model.status(ticket)?;
                Some((self.tickets[ticket].id.clone(), status, job.attempt, Priority::ALL[job.tier]))
            })
            .collect();
        ensure_eq!(seen, expected, "the submissions");
        let stats = store.stats().await?;
        for state in [
            JobState::Queued,
            JobState::Delayed,
            JobState::Running,
            JobState::Completed,
            JobState::Failed,
            JobState::Cancelled,
        ] {
            let expected = model.jobs.iter().filter(|job| job.is(state)).count() as u64;
            ensure_eq!(count_of(&stats, state), expected, "jobs that are {}", state.as_str());
        }
        ensure_eq!(stats.submissions, expected.len() as u64, "counted submissions");
        let letters = store.dead_letters(DeadLetterQuery { limit: usize::MAX, ..Default::default() }).await?;
        let mut letters: Vec<_> =
            letters.into_iter().map(|dead| (dead.job_id, dead.attempts, dead.crashes)).collect();
        letters.sort_by(|a, b| a.0.cmp(&b.0));
        let dead = (0..self.jobs.len()).filter(|at| model.jobs[*at].is(JobState::Failed));
        let dead: Vec<_> =
            dead.map(|at| (self.jobs[at].clone(), model.jobs[at].attempt, model.jobs[at].crashes)).collect();
        ensure_eq!(letters, dead, "the dead letters");
        Ok(())
    }
}
