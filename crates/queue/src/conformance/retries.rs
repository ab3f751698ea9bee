//! Invariant 4: attempts stay within their cap, and every job ends.

use std::time::Duration;

use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{JobState, NewSubmission, SubmissionStatus};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{Finish, Renewal};
use verbatim_core::ports::{JobClient, JobLeases};

use super::virtual_world::{LEASE, names};
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// After the fifth failure the job is a dead letter; until then it waits longer each time.
pub async fn attempts_run_out_into_a_dead_letter<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let most = world.policy.retry.max_attempts;
    for attempt in 1..=most {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.attempt, attempt, "the number of the attempt");
        let finish = world.fail(&lease, FailureKind::EngineFailed).await?;
        let state = if attempt < most { JobState::Delayed } else { JobState::Failed };
        ensure_eq!(finish, Finish::Done(state), "the end of attempt {attempt}");
        // With a jitter of one half: 1, 2, 4, 8 seconds.
        let delay = world.policy.retry.base_delay * (1 << (attempt - 1)) / 2;
        world.pass(delay - Duration::from_millis(1)).await?;
        ensure_eq!(world.claim(&world.worker(), 1).await?, vec![], "claims before the delay is over");
        world.pass(Duration::from_millis(1)).await?;
    }
    let ended = world.get(&id).await?;
    ensure_eq!((ended.status, ended.attempt), (SubmissionStatus::Failed, most), "the dead letter");
    ensure_eq!(ended.failure.map(|failure| failure.kind), Some(FailureKind::EngineFailed), "why it failed");
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims of a dead letter");
    world.audit().await
}

/// What cannot end differently ends at once.
pub async fn a_permanent_failure_is_not_tried_again<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("broken").await?;
    let lease = world.claim_one().await?;
    ensure_eq!(world.fail(&lease, FailureKind::BadAudio).await?, Finish::Done(JobState::Failed), "bad audio");
    let ended = world.get(&id).await?;
    ensure_eq!(
        ended.failure,
        Some(JobFailure::new(FailureKind::BadAudio, "it failed")),
        "what the client is told"
    );
    ensure_eq!(ended.finished_at, Some(world.now()), "when it ended");
    world.audit().await
}

/// A provider that asks to slow down costs no attempt, but the job still ends some day.
pub async fn throttling_refunds_the_attempt_until_the_job_is_too_old<H: Harness>(harness: &H) -> Verdict {
    let policy = StorePolicy { max_age: Duration::from_secs(3600), ..StorePolicy::default() };
    let world = World::with_policy(harness, policy).await?;
    let id = world.ticket("talk").await?;
    let mut throttled = 0;
    while world.status(&id).await? != SubmissionStatus::Failed {
        ensure!(throttled < 100, "a throttled job never ends");
        if let Some(lease) = world.claim(&world.worker(), 1).await?.first() {
            ensure_eq!(lease.attempt, 1, "the attempt after being throttled {throttled} times");
            let mut failure = JobFailure::new(FailureKind::Throttled, "slow down");
            failure.retry_after = Some(Duration::from_secs(300));
            world.store.fail(&lease.token, failure).await?;
            throttled += 1;
        }
        world.pass(Duration::from_secs(60)).await?;
    }
    ensure_eq!(throttled, 12, "times it was tried in an hour, five minutes apart");
    let failure = world.get(&id).await?.failure;
    ensure_eq!(failure.map(|failure| failure.kind), Some(FailureKind::Expired), "why it ended");
    world.audit().await
}

/// A worker that shuts down gives its jobs back to the head of the queue.
pub async fn a_released_job_is_next_and_lost_no_attempt<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("first").await?;
    let lease = world.claim_one().await?;
    world.ticket("second").await?;
    ensure_eq!(world.store.release(&lease.token).await?, Finish::Done(JobState::Queued), "a release");
    let next = world.claim_one().await?;
    ensure_eq!((next.audio.sha256.as_str(), next.attempt), ("first", 1), "the next job and its attempt");
    ensure!(!next.alone, "a release is no crash");
    world.audit().await
}

/// Queued, delayed or running: at its greatest age a job ends.
pub async fn a_job_at_its_greatest_age_ends_whatever_it_does<H: Harness>(harness: &H) -> Verdict {
    let policy = StorePolicy { max_age: LEASE / 2, ..StorePolicy::default() };
    let world = World::with_policy(harness, policy).await?;
    let running = world.ticket("running").await?;
    let lease = world.claim_one().await?;
    let delayed = world.ticket("delayed").await?;
    let failing = world.claim_one().await?;
    let mut failure = JobFailure::new(FailureKind::EngineUnavailable, "later");
    failure.retry_after = Some(LEASE);
    world.store.fail(&failing.token, failure).await?;
    let queued = world.ticket("queued").await?;
    world.clock.advance(policy.max_age);
    ensure_eq!(world.claim(&world.worker(), 1).await?, vec![], "a job that is too old is not begun");
    world.settle().await?;
    for id in [&running, &delayed, &queued] {
        let ended = world.get(id).await?;
        ensure_eq!(ended.failure.map(|failure| failure.kind), Some(FailureKind::Expired), "why it ended");
        ensure_eq!(names(&world.story(id, None).await?).last(), Some(&"failed"), "how its story ends");
    }
    ensure_eq!(world.renew(&lease.token).await?, Renewal::Lost, "the worker's renewal");
    ensure_eq!(world.complete(&lease).await?, Finish::Stale, "the worker's completion");
    world.audit().await
}

/// Who is in a hurry gives up alone; the job goes on for those who are not, and ends with the last.
pub async fn a_deadline_ends_its_own_submission_only<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let hurry = |work: &str, secs| {
        let deadline = Some(Duration::from_secs(secs));
        NewSubmission { deadline, ..world.upload(work) }
    };
    let patient = world.ticket("shared").await?;
    let hurried = world.store.submit(hurry("shared", 10)).await?.submission.id;
    let alone = world.store.submit(hurry("alone", 10)).await?.submission.id;
    let in_time = world.store.submit(hurry("in time", 20)).await?.submission.id;
    world.pass(Duration::from_secs(10)).await?;
    for id in [&hurried, &alone] {
        let ended = world.get(id).await?;
        ensure_eq!(ended.status, SubmissionStatus::Failed, "one whose deadline passed");
        ensure_eq!(ended.failure.map(|failure| failure.kind), Some(FailureKind::Expired), "why it ended");
        ensure_eq!(names(&world.story(id, None).await?), vec!["queued", "failed"], "its story");
    }
    world.expect(&patient, SubmissionStatus::Queued).await?;
    let leases = world.claim(&world.worker(), 10).await?;
    ensure_eq!(leases.len(), 2, "jobs that are still wanted");
    for lease in &leases {
        world.complete(lease).await?;
    }
    world.pass(Duration::from_secs(10)).await?;
    for id in [&patient, &in_time] {
        world.expect(id, SubmissionStatus::Completed).await?;
    }
    world.audit().await
}
