//! Invariants 2 and 5 at the moment when a job is forgotten: whoever comes just then is answered or gets new work, and no
//! submission is left without its job.

use std::time::Duration;

use futures::future::try_join_all;
use futures::join;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{JobAdmin, JobClient, JobUpkeep};

use super::{Harness, MOMENT, Verdict, World, ensure, ensure_eq};

/// Finished work answers for as long as it is kept.
fn policy() -> StorePolicy {
    let hour = Duration::from_secs(3600);
    StorePolicy { dedupe_ttl: hour * 1000, result_retention: hour, ..StorePolicy::default() }
}

/// Who comes a moment before it would be forgotten is answered, and it is kept for them.
pub async fn a_duplicate_just_before_expiry_keeps_the_result<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    let first = world.ticket("talk").await?;
    world.work_off_one().await?;
    world.pass(world.policy.result_retention - MOMENT).await?;
    let second = world.submit("talk").await?.submission;
    ensure!(second.cached, "the result is there to answer");
    world.pass(MOMENT).await?;
    // Also when its time is over and upkeep has not come by.
    world.clock.advance(world.policy.result_retention - MOMENT);
    let third = world.submit("talk").await?.submission;
    ensure!(third.cached, "what is not forgotten yet answers");
    ensure_eq!(world.settle().await?.expired, 0, "what was forgotten, though somebody was just answered");
    for id in [&first, &second.id, &third.id] {
        world.expect(id, SubmissionStatus::Completed).await?;
    }
    world.pass(world.policy.result_retention).await?;
    ensure_eq!(world.list().await?, vec![], "submissions, when the last one's time is over");
    world.audit().await
}

/// Who comes a moment after it was forgotten gets new work done.
pub async fn a_duplicate_just_after_expiry_is_new_work<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    let first = world.submit("talk").await?.submission;
    world.work_off_one().await?;
    world.pass(world.policy.result_retention).await?;
    let again = world.submit("talk").await?;
    ensure!(again.blob_adopted && again.submission.job_id != first.job_id, "it is new work");
    ensure_eq!(world.store.get(&world.tenant(), &first.id).await?, None, "the one that was forgotten");
    world.work_off_one().await?;
    world.expect(&again.submission.id, SubmissionStatus::Completed).await?;
    world.audit().await
}

/// However the two fall, the duplicate is answered or gets new work, and keeps what it was told.
pub async fn expiry_racing_a_duplicate_loses_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    for round in 0..20 {
        let work = format!("talk {round}");
        world.ticket(&work).await?;
        world.work_off_one().await?;
        world.clock.advance(world.policy.result_retention);
        let duplicates = try_join_all((0..3).map(|_| world.store.submit(world.upload(&work))));
        let outcomes = if round % 2 == 0 {
            let (ticked, outcomes) = join!(world.store.tick(), duplicates);
            ticked?;
            outcomes?
        } else {
            let (outcomes, ticked) = join!(duplicates, world.store.tick());
            ticked?;
            outcomes?
        };
        world.settle().await?;
        for outcome in &outcomes {
            let told = &outcome.submission;
            let now = world.get(&told.id).await?;
            ensure_eq!((&now.job_id, now.status), (&told.job_id, told.status), "what the duplicate was told");
        }
        if outcomes.iter().any(|outcome| outcome.blob_adopted) {
            world.work_off_one().await?;
        }
        for outcome in &outcomes {
            world.expect(&outcome.submission.id, SubmissionStatus::Completed).await?;
        }
        world.audit().await?;
    }
    Ok(())
}

/// A dead letter is either forgotten or tried again, never half of each.
pub async fn expiry_racing_a_redrive_loses_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    for round in 0..10 {
        let id = world.ticket(&format!("talk {round}")).await?;
        let lease = world.claim_one().await?;
        world.fail(&lease, FailureKind::BadAudio).await?;
        world.clock.advance(world.policy.result_retention);
        let job = &lease.token.job_id;
        let redriven = if round % 2 == 0 {
            join!(world.store.tick(), world.store.redrive(job)).1?
        } else {
            join!(world.store.redrive(job), world.store.tick()).0?
        };
        world.settle().await?;
        if redriven {
            world.expect(&id, SubmissionStatus::Queued).await?;
            ensure!(world.needs(&lease.blob).await?, "its audio is needed");
            world.work_off_one().await?;
        } else {
            ensure_eq!(world.store.get(&world.tenant(), &id).await?, None, "its submission");
        }
        world.audit().await?;
    }
    Ok(())
}

/// A job that hundreds wait for is forgotten with all of them; who comes while that goes on is safe.
pub async fn a_job_with_many_submissions_is_forgotten_whole<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    try_join_all((0..600).map(|_| world.submit("talk"))).await?;
    world.work_off_one().await?;
    world.clock.advance(world.policy.result_retention);
    world.store.tick().await?;
    let late = world.submit("talk").await?.submission;
    world.settle().await?;
    world.expect(&late.id, late.status).await?;
    world.audit().await?;
    if late.status == SubmissionStatus::Queued {
        world.work_off_one().await?;
    }
    world.pass(world.policy.result_retention).await?;
    let stats = world.store.stats().await?;
    let jobs: u64 = stats.states.iter().map(|(_, count)| count).sum();
    ensure_eq!((stats.submissions, jobs), (0, 0), "submissions and jobs at last");
    world.audit().await
}
