//! Invariants 4 and 9 where workers vanish: a poison job cannot kill workers for ever, and innocents are not blamed.

use verbatim_core::failure::FailureKind;
use verbatim_core::job::{JobState, Lease, Report, SubmissionStatus};
use verbatim_core::options::Priority;
use verbatim_core::policy::ISOLATED_AFTER;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{Finish, Renewal};
use verbatim_core::ports::{JobAdmin, JobLeases, JobUpkeep};

use super::virtual_world::LEASE;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

fn works(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| lease.audio.sha256.as_str()).collect()
}

/// After the third worker, a poison job is a dead letter; the attempts it was not blamed for do not matter.
pub async fn crashing_alone_runs_out_into_a_dead_letter<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("poison").await?;
    for crash in 1..=world.policy.retry.max_crashes {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.attempt, 1, "the attempt after {} crashes, which are counted apart", crash - 1);
        ensure_eq!(
            lease.alone,
            crash > ISOLATED_AFTER,
            "whether it runs alone after {} workers died",
            crash - 1
        );
        world.die().await?;
    }
    let ended = world.get(&id).await?;
    ensure_eq!(ended.status, SubmissionStatus::Failed, "the poison job");
    ensure_eq!(ended.failure.map(|failure| failure.kind), Some(FailureKind::WorkerLost), "why it failed");
    ensure_eq!(ended.attempt, 1, "the attempt that its client sees: it was tried");
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims of a dead letter");
    world.audit().await
}

/// Jobs whose workers died at once wait for different times, so that they do not meet again.
pub async fn jobs_that_lapsed_at_once_return_one_by_one<H: Harness>(harness: &H) -> Verdict {
    const JOBS: u64 = 8;
    let world = World::with_jitter_of_the_draw(harness).await?;
    for number in 0..JOBS {
        world.ticket(&format!("talk {number}")).await?;
        world.claim_one().await?;
    }
    world.pass(LEASE).await?;
    ensure_eq!(world.count(JobState::Delayed).await?, JOBS, "jobs that wait after a crash");
    // Two draws lie more than this apart.
    let step = world.policy.retry.base_delay / 20;
    for _ in 0..20 {
        world.clock.advance(step);
        let promoted = world.store.tick().await?.promoted;
        ensure!(promoted <= 1, "{promoted} jobs return in the same moment");
    }
    ensure_eq!(world.count(JobState::Queued).await?, JOBS, "jobs that have returned");
    world.audit().await
}

/// Of a batch that vanished with its worker, only the job that also kills a worker alone ends as a dead letter.
pub async fn innocents_are_not_blamed_for_a_crash_beside_them<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let poison = world.ticket("poison").await?;
    let mut innocents = Vec::new();
    for number in 0..3 {
        innocents.push(world.ticket(&format!("innocent {number}")).await?);
    }
    for _ in 0..ISOLATED_AFTER {
        let together = world.claim(&world.worker(), 10).await?;
        ensure_eq!(together.len(), 4, "jobs that one worker holds");
        ensure!(together.iter().all(|lease| !lease.alone), "none is isolated yet");
        world.die().await?;
    }
    let mut crashes = 0;
    for _ in 0..100 {
        let leases = world.claim(&world.worker(), 10).await?;
        let Some(lease) = leases.first() else { break };
        ensure_eq!(
            (leases.len(), lease.alone),
            (1, true),
            "isolated jobs that one worker holds, and whether they run alone"
        );
        if lease.audio.sha256 == "poison" {
            crashes += 1;
            world.die().await?;
        } else {
            world.complete(lease).await?;
        }
    }
    ensure_eq!(
        crashes,
        world.policy.retry.max_crashes,
        "crashes while alone until the poison job was given up"
    );
    world.expect(&poison, SubmissionStatus::Failed).await?;
    for innocent in &innocents {
        world.expect(innocent, SubmissionStatus::Completed).await?;
    }
    world.audit().await
}

/// Leases that were renewed at different times lapse at different times; the last one is not the culprit for that.
pub async fn innocents_are_not_blamed_when_leases_lapse_one_after_the_other<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    let worker = world.worker();
    let innocent = world.ticket("innocent").await?;
    world.ticket("beside").await?;
    let leases = world.claim(&worker, 2).await?;
    let [ours, beside] = &leases[..] else { return Err(Violation::new("two jobs are there to claim")) };
    world.pass(LEASE / 2).await?;
    world.renew(&ours.token).await?;
    world.pass(LEASE / 2).await?;
    ensure_eq!(beside.audio.sha256, "beside", "the lease that was not renewed");
    ensure_eq!(world.count(JobState::Running).await?, 1, "jobs that are still held");
    let held = world.renew(&ours.token).await?;
    ensure!(matches!(held, Renewal::Held { .. }), "the lease that was renewed: {held:?}");
    world.die().await?;
    // Were it blamed already, these crashes would make it a dead letter.
    let mut crashes = 1;
    while crashes < world.policy.retry.max_crashes {
        let lease = world.claim_one().await?;
        if lease.audio.sha256 == "innocent" {
            crashes += 1;
            world.die().await?;
        } else {
            world.complete(&lease).await?;
        }
    }
    world.expect(&innocent, SubmissionStatus::Queued).await?;
    while let Some(lease) = world.claim(&world.worker(), 1).await?.first() {
        world.complete(lease).await?;
    }
    world.expect(&innocent, SubmissionStatus::Completed).await?;
    world.audit().await
}

/// What is beside a worker that dies for another reason is not slowed down: jobs of one dead worker go on side by side.
pub async fn one_death_isolates_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let mut tickets = Vec::new();
    for number in 0..8 {
        tickets.push(world.ticket(&format!("talk {number}")).await?);
    }
    ensure_eq!(world.claim(&world.worker(), 8).await?.len(), 8, "jobs that one worker holds");
    world.die().await?;
    let again = world.claim(&world.worker(), 8).await?;
    ensure_eq!(again.len(), 8, "jobs that the next worker holds at once");
    ensure!(again.iter().all(|lease| !lease.alone && lease.attempt == 1), "none is isolated: {again:?}");
    for lease in &again {
        world.complete(lease).await?;
    }
    for ticket in &tickets {
        world.expect(ticket, SubmissionStatus::Completed).await?;
    }
    world.audit().await
}

/// A worker that was killed is not the fault of a job that got further under it: where machines are taken away often, a long
/// recording is done in pieces. What does not get further is blamed as ever, and its checkpoint outlives that.
pub async fn a_job_that_gets_further_is_not_blamed_for_deaths<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("long talk").await?;
    let checkpoint = |position_ms| Checkpoint {
        revision: "fake-1".to_owned(),
        position_ms,
        segments: Vec::new(),
        state: serde_json::Value::Null,
    };
    let report = async |lease: &Lease, position_ms| {
        let report = Report { checkpoint: Some(checkpoint(position_ms)), ..Report::default() };
        Verdict::Ok(world.store.report(&lease.token, report).await?)
    };
    let deaths = 2 * u64::from(world.policy.retry.max_crashes);
    for position in (1..=deaths).map(|death| death * 1000) {
        let lease = world.claim_one().await?;
        ensure!(!lease.alone, "it was isolated before {position} ms");
        ensure!(report(&lease, position).await?, "the report was refused");
        world.die().await?;
    }
    let furthest = deaths * 1000;
    for crash in 1..=world.policy.retry.max_crashes {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.checkpoint.as_ref().map(|at| at.position_ms), Some(furthest), "where it goes on");
        ensure_eq!(lease.alone, crash > ISOLATED_AFTER, "whether crash {crash} is one alone");
        // Written again, but no further.
        ensure!(report(&lease, furthest).await?, "the report was refused");
        world.die().await?;
    }
    let ended = world.get(&id).await?;
    ensure_eq!(ended.failure.map(|failure| failure.kind), Some(FailureKind::WorkerLost), "why it failed");
    ensure!(world.store.redrive(&ended.job_id).await?, "it is tried again");
    let redriven = world.claim_one().await?;
    ensure_eq!(redriven.checkpoint, Some(checkpoint(furthest)), "where the redriven job goes on");
    world.complete(&redriven).await?;
    world.audit().await
}

/// An isolated job goes to an idle worker, by itself, and that worker gets nothing beside it.
pub async fn an_isolated_job_runs_alone<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.isolate(world.upload("isolated")).await?;
    for number in 0..5 {
        world.ticket(&format!("harmless {number}")).await?;
    }
    world.submit_at("urgent", Priority::High).await?;
    let reserved = world.claim_busy(&world.worker(), 2).await?;
    ensure_eq!(
        works(&reserved),
        vec!["urgent"],
        "what a busy worker gets until it is the isolated job's turn"
    );
    let busy = world.worker();
    let one = world.claim_busy(&busy, 1).await?;
    ensure_eq!(works(&one), vec!["harmless 0"], "what the next one gets that says it is busy");
    let more = world.claim(&busy, 1).await?;
    ensure_eq!(works(&more), vec!["harmless 1"], "what a worker gets that is busy whatever it says");
    let idle = world.worker();
    let alone = world.claim(&idle, 10).await?;
    ensure_eq!(works(&alone), vec!["isolated"], "what an idle worker gets");
    ensure!(alone.iter().all(|lease| lease.alone), "the lease says that the job runs alone");
    let beside = world.claim_busy(&idle, 10).await?;
    ensure_eq!(works(&beside), Vec::<&str>::new(), "what a worker gets beside an isolated job");
    let rest = world.claim(&world.worker(), 10).await?;
    ensure_eq!(works(&rest), vec!["harmless 2", "harmless 3", "harmless 4"], "what others get meanwhile");
    ensure_eq!(world.complete(&alone[0]).await?, Finish::Done(JobState::Completed), "the isolated job's end");
    world.audit().await
}
