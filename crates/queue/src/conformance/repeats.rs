//! Invariant 11: repeating any call is a no-op or returns the same answer, as after a timeout whose outcome is unknown.

use std::time::Duration;

use verbatim_core::ErrorKind;
use verbatim_core::event::{EventKind, Stage};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{Idempotency, JobState, NewSubmission, Report, SubmissionStatus};
use verbatim_core::ports::jobs::{Finish, Renewal};
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};

use super::events::segment;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// The ticket is the caller's; a second submit with it answers as the first did, at any time.
pub async fn submitting_a_ticket_again_changes_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let new = world.upload("talk");
    let first = world.store.submit(new.clone()).await?;
    ensure!(first.blob_adopted && !first.replayed, "the first submit made the job");
    let again = world.store.submit(new.clone()).await?;
    ensure!(again.replayed && again.blob_adopted, "the second repeats that the upload belongs to the job");
    ensure_eq!(again.submission, first.submission, "the second answer");
    let attaching = world.upload("talk");
    let attached = world.store.submit(attaching.clone()).await?;
    let repeated = world.store.submit(attaching).await?;
    ensure!(
        !attached.blob_adopted && !repeated.blob_adopted && repeated.replayed,
        "an attached upload is never adopted"
    );
    ensure_eq!(repeated.submission, attached.submission, "the answer to one that attached");
    world.work_off_one().await?;
    let late = world.store.submit(new).await?;
    ensure!(late.replayed && late.blob_adopted, "a late repetition is recognised too");
    ensure_eq!(late.submission.status, SubmissionStatus::Completed, "and shows how things stand");
    ensure_eq!(world.list().await?.len(), 2, "submissions");
    world.audit().await
}

/// Fails unless the ticket is not taken. Not definitely: the caller keeps the upload, which is the job's.
async fn refuses<H: Harness>(world: &World<'_, H>, new: &NewSubmission) -> Verdict {
    let error = world.store.submit(new.clone()).await.err();
    let told = error.map(|error| (error.kind(), error.is_definite()));
    ensure_eq!(told, Some((ErrorKind::Internal, false)), "the answer to a removed ticket");
    Ok(())
}

/// A repetition that comes when its ticket is gone, but the job that it made is not, harms that job in no state.
pub async fn submitting_a_removed_ticket_again_harms_no_job<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    // A dead letter.
    let (failed, other) = (world.upload("failed"), world.upload("failed"));
    for new in [&failed, &other] {
        world.store.submit(new.clone()).await?;
    }
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    world.store.delete(&world.tenant(), &failed.id).await?;
    let before = world.get(&other.id).await?;
    refuses(&world, &failed).await?;
    ensure_eq!(world.get(&other.id).await?, before, "the dead letter");
    ensure!(world.needs(&failed.blob).await?, "the audio of the dead letter is nobody's");
    // A result that is too old to answer.
    let (done, other) = (world.upload("done"), world.upload("done"));
    for new in [&done, &other] {
        world.store.submit(new.clone()).await?;
    }
    world.work_off_one().await?;
    world.pass(world.policy.dedupe_ttl).await?;
    world.store.delete(&world.tenant(), &done.id).await?;
    let before = world.get(&other.id).await?;
    refuses(&world, &done).await?;
    ensure_eq!(world.get(&other.id).await?, before, "the result");
    // A job that is to stop.
    let stopping = world.upload("stopping");
    world.store.submit(stopping.clone()).await?;
    let lease = world.claim_one().await?;
    for _ in 0..2 {
        world.store.delete(&world.tenant(), &stopping.id).await?;
    }
    refuses(&world, &stopping).await?;
    ensure_eq!(world.renew(&lease.token).await?, Renewal::CancelRequested, "the lease");
    ensure_eq!(world.complete(&lease).await?, Finish::Done(JobState::Cancelled), "its end");
    // One that goes on for somebody else takes the ticket again, like any other of the same work.
    let (live, other) = (world.upload("live"), world.upload("live"));
    for new in [&live, &other] {
        world.store.submit(new.clone()).await?;
    }
    for _ in 0..2 {
        world.store.delete(&world.tenant(), &live.id).await?;
    }
    let attached = world.store.submit(live).await?;
    ensure!(
        attached.blob_adopted && attached.submission.deduplicated,
        "attached to its own job: {attached:?}"
    );
    world.work_off_one().await?;
    for id in [attached.submission.id, other.id] {
        world.expect(&id, SubmissionStatus::Completed).await?;
    }
    world.audit().await
}

/// The same key and body get the first answer, another body is a conflict, and after a day the key is new.
pub async fn an_idempotency_key_replays_its_answer_for_a_day<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let keyed = |work: &str, body: &str| NewSubmission {
        idempotency: Some(Idempotency { key: "order 66".to_owned(), body_digest: body.to_owned() }),
        ..world.upload(work)
    };
    let first = world.store.submit(keyed("talk", "body")).await?;
    ensure!(!first.replayed, "the first use of a key is no repetition");
    let again = world.store.submit(keyed("talk", "body")).await?;
    ensure!(again.replayed && !again.blob_adopted, "a repetition makes nothing");
    ensure_eq!(again.submission, first.submission, "the answer to the repetition");
    let other = world.store.submit(keyed("other talk", "other body")).await;
    ensure_eq!(
        other.map_err(|error| error.kind()).err(),
        Some(ErrorKind::Conflict),
        "the same key, another body"
    );
    let found = world.store.find_idempotent(&world.tenant(), "order 66").await?;
    let found = found.map(|(submission, digest)| (submission.id, digest));
    ensure_eq!(
        found,
        Some((first.submission.id.clone(), "body".to_owned())),
        "what the key is remembered for"
    );
    world.pass(world.policy.idempotency_ttl - Duration::from_millis(1)).await?;
    ensure!(
        world.store.find_idempotent(&world.tenant(), "order 66").await?.is_some(),
        "it is remembered for a day"
    );
    // Whether or not upkeep has come by.
    world.clock.advance(Duration::from_millis(1));
    ensure!(world.store.find_idempotent(&world.tenant(), "order 66").await?.is_none(), "and then forgotten");
    let fresh = world.store.submit(keyed("other talk", "other body")).await?;
    ensure!(!fresh.replayed && fresh.submission.id != first.submission.id, "the key is free again");
    world.audit().await
}

/// A claim whose answer was lost is repeated by its nonce.
pub async fn a_claim_repeated_returns_the_same_lease<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for number in 0..4 {
        world.ticket(&format!("talk {number}")).await?;
    }
    let request = world.request(&world.worker(), true);
    let first = world.store.claim(request.clone()).await?;
    let lease = first.clone().ok_or_else(|| Violation::new("there is a job to claim"))?;
    ensure_eq!(world.store.claim(request.clone()).await?, first, "the lease of the same claim");
    world.store.release(&lease.token).await?;
    ensure_eq!(world.store.claim(request.clone()).await?, None, "the lease, given back");
    let other = world.claim_one().await?;
    ensure_eq!(other.token.job_id, lease.token.job_id, "the job that was given back is the next one's");
    ensure_eq!(world.store.claim(request).await?, None, "the lease, now another's");
    ensure_eq!(world.count(JobState::Queued).await?, 3, "jobs that no claim took");
    world.audit().await
}

/// Complete, fail and release answer their repetition as they answered the first time, also when the job moved on.
pub async fn finishing_again_returns_the_same_answer<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let failed = world.claim_one().await?;
    let failure = || JobFailure::new(FailureKind::EngineFailed, "once");
    let delayed = Finish::Done(JobState::Delayed);
    ensure_eq!(world.store.fail(&failed.token, failure()).await?, delayed, "a failure");
    ensure_eq!(world.store.fail(&failed.token, failure()).await?, delayed, "the same failure");
    ensure_eq!(world.complete(&failed).await?, Finish::Stale, "another call under a lease that is over");
    world.pass(world.policy.retry.max_delay).await?;
    ensure_eq!(world.store.fail(&failed.token, failure()).await?, delayed, "the same failure, later");
    let released = world.claim_one().await?;
    ensure_eq!(released.attempt, 2, "attempts: the repetitions did not count");
    let queued = Finish::Done(JobState::Queued);
    ensure_eq!(world.store.release(&released.token).await?, queued, "a release");
    ensure_eq!(world.store.release(&released.token).await?, queued, "the same release");
    let completed = world.claim_one().await?;
    ensure_eq!(completed.attempt, 2, "attempts: the release gave one back, once");
    ensure_eq!(
        world.store.release(&released.token).await?,
        queued,
        "the same release while another holds the job"
    );
    world.expect(&id, SubmissionStatus::Processing).await?;
    let done = Finish::Done(JobState::Completed);
    ensure_eq!(world.complete(&completed).await?, done, "a completion");
    let published = world.get(&id).await?;
    world.clock.advance(Duration::from_secs(5));
    ensure_eq!(world.complete(&completed).await?, done, "the same completion");
    ensure_eq!(world.get(&id).await?, published, "what is published");
    world.audit().await
}

/// Watchers do not see a report twice.
pub async fn reporting_again_adds_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let lease = world.claim_one().await?;
    let report = |from, to| Report {
        progress: Some((0.5, Stage::Transcribing)),
        segments: (from..to).map(segment).collect(),
        checkpoint: None,
    };
    for report in [report(0, 2), report(0, 2), report(1, 3)] {
        ensure!(
            world.store.report(&lease.token, report).await?,
            "the report of the current lease was refused"
        );
    }
    world.complete(&lease).await?;
    let story = world.story(&id, None).await?;
    let counts = story.iter().filter_map(|event| match event.kind {
        EventKind::Transcribed { count, .. } => Some(count),
        _ => None,
    });
    ensure_eq!(counts.collect::<Vec<_>>(), vec![3], "segments that watchers see");
    world.audit().await
}

/// Cancelling what is cancelled and deleting what is deleted is fine.
pub async fn cancelling_and_confirming_again_changes_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let first = world.cancel(&id).await?;
    world.clock.advance(Duration::from_secs(5));
    ensure_eq!(world.cancel(&id).await?, first, "cancelling again");
    let garbage = world.garbage().await?;
    ensure_eq!(garbage.len(), 1, "blobs that nobody needs");
    ensure_eq!(world.garbage().await?, garbage, "they stay listed until confirmed");
    for _ in 0..2 {
        world.store.blobs_deleted(&garbage).await?;
        ensure_eq!(world.garbage().await?, vec![], "garbage after confirmation");
    }
    let done = world.ticket("other talk").await?;
    world.work_off_one().await?;
    let completed = world.get(&done).await?;
    ensure_eq!(world.cancel(&done).await?, completed, "cancelling what has ended");
    world.audit().await
}
