//! Invariant 5: nobody pays twice for the same work.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::try_join_all;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{JobState, SubmissionStatus};
use verbatim_core::ports::{BlobKey, JobClient};

use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

const MOMENT: Duration = Duration::from_millis(1);

/// A hundred at once make one job; each has its ticket and each gets the transcript.
pub async fn identical_work_submitted_at_once_is_done_once<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let outcomes = try_join_all((0..100).map(|_| world.store.submit(world.upload("talk")))).await?;
    let adopted = outcomes.iter().filter(|outcome| outcome.blob_adopted).count();
    let attached = outcomes.iter().filter(|outcome| outcome.submission.deduplicated).count();
    ensure_eq!((adopted, attached), (1, 99), "uploads that a job took, and submissions that attached");
    let jobs: HashSet<_> = outcomes.iter().map(|outcome| &outcome.submission.job_id).collect();
    let tickets: HashSet<_> = outcomes.iter().map(|outcome| &outcome.submission.id).collect();
    ensure_eq!((jobs.len(), tickets.len()), (1, 100), "jobs and tickets");
    ensure_eq!(world.claim(&world.worker(), 100).await?.len(), 1, "jobs to work on");
    let late = world.submit("talk").await?.submission;
    ensure_eq!(late.status, SubmissionStatus::Processing, "one that attaches while it runs");
    world.audit().await
}

/// Another key is other work.
pub async fn different_work_is_done_separately<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let works: Vec<_> = (0..100).map(|number| format!("talk {number}")).collect();
    let outcomes = try_join_all(works.iter().map(|work| world.submit(work))).await?;
    ensure!(
        outcomes.iter().all(|outcome| outcome.blob_adopted && !outcome.replayed),
        "each upload made a job"
    );
    ensure_eq!(world.count(JobState::Queued).await?, 100, "queued jobs");
    world.audit().await
}

/// A finished result answers at once for `dedupe_ttl`, then the work is done again.
pub async fn a_finished_result_answers_until_its_time_is_over<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = world.ticket("talk").await?;
    let lease = world.work_off_one().await?;
    world.pass(world.policy.dedupe_ttl - MOMENT).await?;
    let hit = world.submit("talk").await?;
    let cached = hit.submission;
    ensure!(
        cached.cached && !cached.deduplicated && !hit.blob_adopted && !hit.replayed,
        "the last moment is a hit"
    );
    ensure_eq!(cached.status, SubmissionStatus::Completed, "a cached submission");
    ensure_eq!(cached.created_at, world.now(), "when it was made");
    ensure!(cached.finished_at >= Some(cached.created_at), "it did not end before it began");
    let result = world.get(&first).await?.result;
    ensure!(result.is_some() && cached.result == result, "both show the same result");
    ensure_eq!(cached.audio.duration_ms, Some(2_500), "the length that decoding found");
    world.pass(MOMENT).await?;
    let miss = world.submit("talk").await?;
    ensure!(miss.blob_adopted && !miss.submission.cached, "a moment later the work is done again");
    ensure!(miss.submission.job_id != lease.token.job_id, "by another job");
    world.work_off_one().await?;
    let newer = world.submit("talk").await?.submission;
    ensure!(newer.cached && newer.job_id == miss.submission.job_id, "from then on the newer result answers");
    // When the old ones are forgotten, the work is still known by the job that does it now.
    world.pass(world.policy.dedupe_ttl).await?;
    let third = world.submit("talk").await?;
    ensure!(third.blob_adopted, "the work is done a third time");
    for old in [&first, &cached.id, &miss.submission.id, &newer.id] {
        world.store.delete(&world.tenant(), old).await?;
    }
    let attached = world.submit("talk").await?.submission;
    ensure!(attached.deduplicated && attached.job_id == third.submission.job_id, "the live job takes it");
    world.audit().await
}

/// Only success is an answer.
pub async fn failed_and_cancelled_jobs_answer_nobody<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let failed = world.ticket("broken").await?;
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    world.expect(&failed, SubmissionStatus::Failed).await?;
    let cancelled = world.ticket("unwanted").await?;
    world.cancel(&cancelled).await?;
    for work in ["broken", "unwanted"] {
        let again = world.submit(work).await?;
        ensure!(
            again.blob_adopted && !again.submission.cached && !again.submission.deduplicated,
            "{work} is new work"
        );
        ensure_eq!(
            again.submission.status,
            SubmissionStatus::Queued,
            "the new submission of what was {work}"
        );
    }
    world.expect(&failed, SubmissionStatus::Failed).await?;
    world.expect(&cancelled, SubmissionStatus::Cancelled).await?;
    world.audit().await
}

/// Whoever was answered by it is told that it is gone; the next one's work is new.
pub async fn a_result_that_is_gone_answers_nobody<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = world.ticket("talk").await?;
    let lease = world.work_off_one().await?;
    let gone = BlobKey::for_result(&lease.token);
    let other =
        BlobKey::parse("results/work_another/1-a").map_err(|error| Violation::new(error.to_string()))?;
    world.store.result_lost(&world.tenant(), &first, &other).await?;
    ensure!(world.submit("talk").await?.submission.cached, "it has another result: nothing is forgotten");
    for _ in 0..2 {
        world.store.result_lost(&world.tenant(), &first, &gone).await?;
    }
    let again = world.submit("talk").await?;
    ensure!(!again.submission.cached && again.blob_adopted, "the work is new: {again:?}");
    ensure_eq!(world.get(&first).await?.result, Some(gone), "what is known of the first");
    world.work_off_one().await?;
    ensure!(world.submit("talk").await?.submission.cached, "the new result answers");
    world.audit().await
}
