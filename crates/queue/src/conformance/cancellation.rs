//! Invariant 6: cancelling one submission never ends another's job, and after CANCELLED nothing claims it.

use verbatim_core::failure::FailureKind;
use verbatim_core::ids::TenantId;
use verbatim_core::job::{JobState, SubmissionStatus};
use verbatim_core::ports::jobs::{DeleteOutcome, Finish, ListQuery, Renewal};
use verbatim_core::ports::{BlobKey, JobClient, JobLeases};

use super::virtual_world::LEASE;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// Two share a job; one leaves, the other gets its transcript.
pub async fn a_cancelled_submission_leaves_the_others_alone<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (first, second) = (world.ticket("talk").await?, world.ticket("talk").await?);
    let cancelled = world.cancel(&first).await?;
    ensure_eq!(cancelled.status, SubmissionStatus::Cancelled, "the answer to the one that left");
    world.expect(&second, SubmissionStatus::Queued).await?;
    let lease = world.claim_one().await?;
    ensure!(matches!(world.renew(&lease.token).await?, Renewal::Held { .. }), "the job is wanted");
    ensure_eq!(world.complete(&lease).await?, Finish::Done(JobState::Completed), "completing");
    world.expect(&first, SubmissionStatus::Cancelled).await?;
    world.expect(&second, SubmissionStatus::Completed).await?;
    ensure_eq!(world.get(&first).await?.result, None, "the result of the one that left");
    world.audit().await
}

/// A job that nobody wants is not worked on.
pub async fn a_queued_job_goes_with_its_last_submission<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let new = world.upload("talk");
    let blob = new.blob.clone();
    let first = world.store.submit(new).await?.submission.id;
    let second = world.ticket("talk").await?;
    world.cancel(&first).await?;
    world.cancel(&second).await?;
    ensure_eq!(world.count(JobState::Cancelled).await?, 1, "cancelled jobs");
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims after CANCELLED");
    ensure_eq!(world.garbage().await?, vec![blob.clone()], "the audio that nobody needs");
    ensure!(!world.needs(&blob).await?, "the audio of a cancelled job is not referenced");
    // The same with one that waits for its next attempt.
    let delayed = world.ticket("other talk").await?;
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::EngineFailed).await?;
    world.cancel(&delayed).await?;
    world.pass(world.policy.retry.max_delay).await?;
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims of a delayed job after CANCELLED");
    world.audit().await
}

/// A job that must run alone goes like any other, and no worker is kept for it.
pub async fn an_isolated_job_goes_with_its_last_submission<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.isolate(world.upload("isolated")).await?;
    ensure_eq!(world.count(JobState::Queued).await?, 1, "isolated jobs that wait");
    world.cancel(&id).await?;
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims after CANCELLED");
    world.audit().await
}

/// A worker learns at renewal that nobody wants its job; whatever it then says, nothing is published.
pub async fn a_running_job_is_asked_to_stop_and_publishes_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for work in ["completed all the same", "acknowledged", "released"] {
        let id = world.ticket(work).await?;
        let lease = world.claim_one().await?;
        world.cancel(&id).await?;
        world.expect(&id, SubmissionStatus::Cancelled).await?;
        let renewal = world.renew(&lease.token).await?;
        ensure_eq!(renewal, Renewal::CancelRequested, "the renewal of a job that nobody wants");
        let finish = match work {
            "acknowledged" => world.fail(&lease, FailureKind::Cancelled).await?,
            "released" => world.store.release(&lease.token).await?,
            _ => world.complete(&lease).await?,
        };
        ensure_eq!(finish, Finish::Done(JobState::Cancelled), "the finish of one {work}");
        let result = BlobKey::for_result(&lease.token);
        ensure!(!world.needs(&result).await?, "the result of one {work} is not referenced");
        let garbage = world.garbage().await?;
        ensure_eq!(
            garbage.contains(&result),
            work == "completed all the same",
            "whether its result is garbage"
        );
        ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims after CANCELLED");
        ensure_eq!(world.get(&id).await?.result, None, "the published result");
    }
    world.audit().await
}

/// A worker that vanishes with a job that nobody wants does not bring it back.
pub async fn a_lapsed_lease_ends_a_job_that_was_to_be_cancelled<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    world.claim_one().await?;
    world.cancel(&id).await?;
    world.pass(LEASE).await?;
    ensure_eq!(world.count(JobState::Cancelled).await?, 1, "cancelled jobs");
    world.pass(world.policy.retry.max_delay).await?;
    ensure_eq!(world.claim(&world.worker(), 10).await?, vec![], "claims after CANCELLED");
    world.audit().await
}

/// Who submits the work again while it is being cancelled gets it done.
pub async fn new_work_is_not_attached_to_a_job_that_is_being_cancelled<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = world.submit("talk").await?.submission;
    let old = world.claim_one().await?;
    world.cancel(&first.id).await?;
    let again = world.submit("talk").await?;
    ensure!(again.blob_adopted && !again.submission.deduplicated, "the new submission made a job of its own");
    ensure!(again.submission.job_id != first.job_id, "and not the job that is being cancelled");
    ensure_eq!(world.complete(&old).await?, Finish::Done(JobState::Cancelled), "the finish of the old job");
    world.work_off_one().await?;
    world.expect(&again.submission.id, SubmissionStatus::Completed).await?;
    world.expect(&first.id, SubmissionStatus::Cancelled).await?;
    world.audit().await
}

/// For another tenant, a submission does not exist.
pub async fn one_tenant_cannot_touch_anothers_submission<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let stranger = TenantId::parse("stranger").map_err(|error| Violation::new(error.to_string()))?;
    ensure_eq!(world.store.get(&stranger, &id).await?, None, "what a stranger sees");
    ensure_eq!(world.store.cancel(&stranger, &id).await?, None, "what a stranger cancels");
    ensure_eq!(world.store.delete(&stranger, &id).await?, None, "what a stranger deletes");
    ensure!(world.store.events(&stranger, &id, None).await?.is_none(), "a stranger sees no events");
    let all = ListQuery { limit: 10, ..ListQuery::default() };
    ensure_eq!(world.store.list(&stranger, all).await?.submissions, vec![], "what a stranger lists");
    world.expect(&id, SubmissionStatus::Queued).await?;
    world.audit().await
}

/// Removing ended submissions takes the result only with the last.
pub async fn deleting_the_last_ended_submission_takes_audio_and_result<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (first, second) = (world.ticket("talk").await?, world.ticket("talk").await?);
    let lease = world.work_off_one().await?;
    let result = BlobKey::for_result(&lease.token);
    let removed = Some(DeleteOutcome::Removed);
    ensure_eq!(world.store.delete(&world.tenant(), &first).await?, removed, "deleting the first");
    ensure_eq!(world.store.get(&world.tenant(), &first).await?, None, "the deleted submission");
    ensure_eq!(world.get(&second).await?.result, Some(result.clone()), "the other's result");
    ensure!(world.needs(&result).await?, "the result is kept for the other");
    ensure_eq!(world.store.delete(&world.tenant(), &second).await?, removed, "deleting the last");
    ensure!(!world.needs(&result).await?, "the result goes with the last");
    ensure!(world.garbage().await?.contains(&result), "the result is garbage");
    ensure_eq!(world.store.delete(&world.tenant(), &second).await?, None, "deleting what is gone");
    ensure!(!world.submit("talk").await?.submission.cached, "a removed result answers nobody");
    world.audit().await
}
