//! A history on both sides: the store, by its ports, and the model.

use std::time::Duration;

use verbatim_core::dedupe::DedupeKey;
use verbatim_core::event::Stage;
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::{JobId, TenantId, WorkerId};
use verbatim_core::job::{Completion, Idempotency, JobState, Lease, LeaseToken, NewSubmission, Report};
use verbatim_core::options::Priority;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{ClaimRequest, DeadLetterQuery, ListQuery};
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::{ErrorKind, PortError};

use super::super::events::segment;
use super::super::virtual_world::{count_of, tenant};
use super::super::{Harness, Verdict, Violation, World, ensure_eq};
use super::reference::{Given, Model};
use super::watchers::{Watcher, fraction};
use super::{Answer, Op, TENANTS, WORKERS, Work, abilities, class_of, options_of};

/// Seconds after which any job of a history is too old, in parts; and after which all that ended is forgotten.
const UNTIL_ALL_END: [u16; 3] = [134; 3];
const UNTIL_ALL_IS_FORGOTTEN: [u16; 3] = [102; 3];

/// Runs the history on a fresh store and on the model; `seen` hears of each step.
///
/// # Errors
/// The first step after which they differ, or what is left in the end.
pub async fn replay<H: Harness>(harness: &H, mut model: Model, ops: &[Op], seen: impl Fn()) -> Verdict {
    let world = World::with_jitter_of_the_moment(harness, model.policy).await?;
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
        reported: Vec::new(),
        watchers: Vec::new(),
    };
    for (number, op) in ops.iter().enumerate() {
        seen();
        run.take(&mut model, op)
            .await
            .map_err(|violation| Violation::new(format!("after step {number}, {op:?}: {violation}")))?;
    }
    let ended = run.epilogue(&mut model).await;
    ended.map_err(|violation| Violation::new(format!("after the history: {violation}")))?;
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
    /// How many segments the holder of each has reported.
    reported: Vec<u32>,
    /// Of each ticket.
    watchers: Vec<Watcher>,
}

impl<H: Harness> Run<'_, '_, H> {
    /// Takes the step on both sides.
    async fn take(&mut self, model: &mut Model, op: &Op) -> Verdict {
        model.apply(op);
        let answer = self.step(op).await?;
        self.compare(model, &answer).await?;
        match op {
            Op::Watch { ticket } => self.look(model, *ticket).await,
            _ => Ok(()),
        }
    }

    /// Everybody is told how things stand; then every job ends and everybody is told that; then nothing is left.
    async fn epilogue(&mut self, model: &mut Model) -> Verdict {
        self.look_everywhere(model).await?;
        for secs in UNTIL_ALL_END {
            self.take(model, &Op::Wait { secs }).await?;
            self.take(model, &Op::Upkeep).await?;
        }
        let live = [JobState::Queued, JobState::Delayed, JobState::Running];
        for state in live {
            ensure_eq!(self.world.count(state).await?, 0, "jobs older than any may be, {}", state.as_str());
        }
        self.look_everywhere(model).await?;
        for secs in UNTIL_ALL_IS_FORGOTTEN {
            self.take(model, &Op::Wait { secs }).await?;
            self.take(model, &Op::Upkeep).await?;
        }
        let stats = self.world.store.stats().await?;
        let jobs: u64 = stats.states.iter().map(|(_, jobs)| jobs).sum();
        ensure_eq!((jobs, stats.submissions), (0, 0), "jobs and submissions when all are forgotten");
        Ok(())
    }

    async fn look_everywhere(&mut self, model: &Model) -> Verdict {
        for ticket in 0..self.tickets.len() {
            self.look(model, ticket)
                .await
                .map_err(|violation| Violation::new(format!("who watches ticket {ticket}: {violation}")))?;
        }
        Ok(())
    }

    async fn look(&mut self, model: &Model, ticket: usize) -> Verdict {
        let NewSubmission { tenant, id, .. } = &self.tickets[ticket];
        self.watchers[ticket].look(&self.world.store, tenant, id, model.told(ticket)).await
    }

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
            Op::SetCaps { tenant, caps } => {
                Answer::Capped(store.set_caps(&[(self.tenants[tenant].clone(), caps)]).await?)
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
                    self.reported.push(0);
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
                    segments: self.reported[lease],
                    ..world.completion(&self.leases[lease])
                };
                Answer::Finish(store.complete(&self.leases[lease], completion).await?)
            }
            Op::Fail { lease, kind } => {
                Answer::Finish(store.fail(&self.leases[lease], JobFailure::new(kind, "it failed")).await?)
            }
            Op::Release { lease } => Answer::Finish(store.release(&self.leases[lease]).await?),
            Op::Report { lease, again, more, percent, checkpoint } => {
                let known = self.reported[lease];
                let told = known + u32::from(more);
                let report = Report {
                    progress: percent.map(|percent| (fraction(percent), Stage::Transcribing)),
                    segments: (known.saturating_sub(again.into())..told).map(segment).collect(),
                    checkpoint: checkpoint.map(|secs| Checkpoint {
                        revision: "fake-1".to_owned(),
                        position_ms: u64::from(secs) * 1000,
                        segments: (0..told).map(segment).collect(),
                        state: serde_json::Value::Null,
                    }),
                };
                let held = store.report(&self.leases[lease], report).await?;
                if held {
                    self.reported[lease] = told;
                }
                Answer::Reported(held)
            }
            Op::Watch { .. } => Answer::Nothing,
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
            idempotency: work.key.map(|key| Idempotency {
                key: format!("request {key}"),
                body_digest: format!("work {}", work.work),
            }),
            ..self.world.upload("work")
        };
        let outcome = match self.world.store.submit(new.clone()).await {
            Err(error) => {
                return match (PortError::kind(&error), error.refusal()) {
                    (ErrorKind::Throttled | ErrorKind::Unavailable, Some(why)) => Ok(Answer::Refused(why)),
                    (ErrorKind::Conflict, None) => Ok(Answer::Conflict),
                    _ => Err(error.into()),
                };
            }
            Ok(outcome) => outcome,
        };
        if outcome.replayed {
            let known = self.tickets.iter().any(|ticket| ticket.id == outcome.submission.id);
            ensure_eq!((known, outcome.blob_adopted), (true, false), "what a repeated request makes");
            return Ok(Answer::Replayed { job: self.number_of(&outcome.submission.job_id)? });
        }
        let (cached, attached) = (outcome.submission.cached, outcome.submission.deduplicated);
        ensure_eq!(outcome.blob_adopted, !cached && !attached, "whether the audio is adopted");
        if outcome.blob_adopted {
            self.jobs.push(new.job_id.clone());
        }
        self.tickets.push(new);
        self.watchers.push(Watcher::default());
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
        let resume = lease.and_then(|lease| lease.checkpoint.as_ref()).map(|checkpoint| {
            let secs = u16::try_from(checkpoint.position_ms / 1000).unwrap_or(u16::MAX);
            (secs, u32::try_from(checkpoint.segments.len()).unwrap_or(u32::MAX))
        });
        Ok(Answer::Given(given.transpose()?, resume))
    }

    /// The answer, every submission, every dead letter and every count, on both sides.
    async fn compare(&self, model: &Model, answer: &Answer) -> Verdict {
        ensure_eq!(answer, &model.answer, "the answer");
        let store = &self.world.store;
        let mut seen = Vec::new();
        for whose in &self.tenants {
            let listed =
                store.list(whose, ListQuery { limit: usize::MAX, ..ListQuery::default() }).await?.submissions;
            seen.extend(listed.into_iter().map(|found| {
                let live = !found.status.is_terminal();
                let progress = live.then_some(found.progress);
                (found.id, found.status, found.attempt, found.priority, progress)
            }));
        }
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let expected: Vec<_> = (0..self.tickets.len())
            .filter_map(|ticket| {
                let job = &model.jobs[model.tickets[ticket].job];
                let status = model.status(ticket)?;
                let progress = (!status.is_terminal()).then(|| fraction(job.story.progress.0));
                let tier = Priority::ALL[job.tier];
                Some((self.tickets[ticket].id.clone(), status, job.attempt, tier, progress))
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
        let holders = (0..TENANTS.len()).filter(|tenant| model.remembered_of(*tenant) > 0).count();
        ensure_eq!(stats.holders, holders as u64, "tenants of which submissions are remembered");
        let letters = store.dead_letters(DeadLetterQuery { limit: usize::MAX, ..Default::default() }).await?;
        let mut letters: Vec<_> =
            letters.letters.into_iter().map(|dead| (dead.job_id, dead.attempts, dead.crashes)).collect();
        letters.sort_by(|a, b| a.0.cmp(&b.0));
        let dead = (0..self.jobs.len()).filter(|at| model.jobs[*at].is(JobState::Failed));
        let dead: Vec<_> =
            dead.map(|at| (self.jobs[at].clone(), model.jobs[at].attempt, model.jobs[at].crashes)).collect();
        ensure_eq!(letters, dead, "the dead letters");
        Ok(())
    }
}
