//! Invariants 3 and 9, and what a lease gives.

use std::time::Duration;

use verbatim_core::ErrorKind;
use verbatim_core::audio::{Damage, Findings};
use verbatim_core::event::Stage;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{Completion, JobState, LeaseToken, NewSubmission, Report, SubmissionStatus};
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{Finish, MAX_JOBS_PER_CALL, Renewal};
use verbatim_core::ports::{BlobKey, JobClient, JobLeases};
use verbatim_core::trace::TraceParent;

use super::events::segment;
use super::virtual_world::LEASE;
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// Everything that the holder of `token` may try is refused and leaves no trace.
async fn expect_stale<H: Harness>(world: &World<'_, H>, token: &LeaseToken) -> Verdict {
    let report =
        Report { progress: Some((0.9, Stage::Storing)), segments: vec![segment(9)], checkpoint: None };
    ensure!(!world.store.report(token, report).await?, "a stale report was accepted");
    ensure_eq!(world.renew(token).await?, Renewal::Lost, "a stale renewal");
    let failure = JobFailure::new(FailureKind::BadAudio, "stale");
    ensure_eq!(world.store.fail(token, failure).await?, Finish::Stale, "a stale failure");
    ensure_eq!(world.store.release(token).await?, Finish::Stale, "a stale release");
    ensure_eq!(
        world.store.complete(token, world.completion(token)).await?,
        Finish::Stale,
        "a stale completion"
    );
    Ok(())
}

/// Whoever lost a lease can do nothing with it, whatever became of the job.
pub async fn fences_only_rise_and_stale_ones_change_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let mut past: Vec<LeaseToken> = Vec::new();
    // One more crash would end it.
    for _ in 1..world.policy.retry.max_crashes {
        let lease = world.claim_one().await?;
        ensure!(past.iter().all(|token| token.fence < lease.token.fence), "the fence rises with each lease");
        for token in &past {
            let before = world.get(&id).await?;
            expect_stale(&world, token).await?;
            // Either half alone is not enough: the nonce guards against a store that lost its last fences.
            let right_fence = LeaseToken { fence: lease.token.fence, ..token.clone() };
            expect_stale(&world, &right_fence).await?;
            let right_nonce = LeaseToken { nonce: lease.token.nonce.clone(), ..token.clone() };
            expect_stale(&world, &right_nonce).await?;
            ensure_eq!(world.get(&id).await?, before, "the job after stale calls");
        }
        past.push(lease.token.clone());
        world.pass(LEASE).await?;
        world.pass(world.policy.retry.max_delay).await?;
    }
    let last = world.work_off_one().await?;
    let done = world.get(&id).await?;
    for token in &past {
        expect_stale(&world, token).await?;
    }
    ensure_eq!(world.get(&id).await?, done, "the completed job after stale calls");
    ensure_eq!(done.result, Some(BlobKey::for_result(&last.token)), "the published result");
    world.audit().await
}

/// Two workers that both believe to hold the job publish one result: that of the current fence.
pub async fn only_one_completion_is_ever_published<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let slow = world.claim_one().await?;
    world.pass(LEASE).await?;
    world.pass(world.policy.retry.max_delay).await?;
    let quick = world.claim_one().await?;
    let slow_result = world.complete(&slow).await?;
    world.expect(&id, SubmissionStatus::Processing).await?;
    ensure_eq!(slow_result, Finish::Stale, "the completion of the one that lost its lease");
    ensure_eq!(world.complete(&quick).await?, Finish::Done(JobState::Completed), "the other's completion");
    ensure_eq!(world.complete(&slow).await?, Finish::Stale, "the slow one once more");
    ensure_eq!(world.get(&id).await?.result, Some(BlobKey::for_result(&quick.token)), "the published result");
    ensure_eq!(world.count(JobState::Completed).await?, 1, "completed jobs");
    world.audit().await
}

/// A lease lives as long as it is renewed, and is taken back when it is not.
pub async fn renewed_leases_live_and_others_lapse<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let kept = world.ticket("kept").await?;
    let lease = world.claim_one().await?;
    ensure_eq!(lease.expires_at, world.now().plus(LEASE), "the end of a lease");
    for _ in 0..10 {
        world.pass(LEASE / 3 * 2).await?;
        let expires_at = world.now().plus(LEASE);
        let renewal = world.renew(&lease.token).await?;
        ensure_eq!(renewal, Renewal::Held { expires_at }, "a renewal in time");
    }
    let lost = world.ticket("lost").await?;
    let other = world.claim_one().await?;
    ensure_eq!(world.pass(LEASE - Duration::from_millis(1)).await?.lapsed, 0, "leases that lapsed too early");
    world.renew(&lease.token).await?;
    ensure_eq!(world.pass(Duration::from_millis(1)).await?.lapsed, 1, "leases that lapsed");
    world.expect(&kept, SubmissionStatus::Processing).await?;
    world.expect(&lost, SubmissionStatus::Queued).await?;
    // Another worker takes what was lost. The answers come in the order of the questions.
    world.pass(world.policy.retry.base_delay).await?;
    world.renew(&lease.token).await?;
    world.claim_one().await?;
    let renewals = world.store.renew(&[other.token.clone(), lease.token.clone()], LEASE).await?;
    ensure!(
        matches!(renewals[..], [Renewal::Lost, Renewal::Held { .. }]),
        "two renewals at once: {renewals:?}"
    );
    let crowd = vec![lease.token.clone(); MAX_JOBS_PER_CALL + 1];
    let refused = world.store.renew(&crowd, LEASE).await.map_err(|error| error.kind());
    ensure_eq!(refused, Err(ErrorKind::Invalid), "more renewals than one call may bring");
    world.audit().await
}

/// Work that was done is not done again.
pub async fn the_next_worker_gets_the_checkpoint<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("long talk").await?;
    let first = world.claim_one().await?;
    ensure_eq!(first.checkpoint, None, "the checkpoint of a first attempt");
    let checkpoint = |position_ms| Checkpoint {
        revision: "fake-1".to_owned(),
        position_ms,
        segments: vec![segment(0)],
        state: serde_json::json!({"prompt": [1, 2, 3]}),
    };
    for position in [30_000, 60_000] {
        let report = Report { checkpoint: Some(checkpoint(position)), ..Report::default() };
        ensure!(
            world.store.report(&first.token, report).await?,
            "the report of the current lease was refused"
        );
    }
    world.pass(LEASE).await?;
    world.pass(world.policy.retry.max_delay).await?;
    let second = world.claim_one().await?;
    ensure_eq!(second.checkpoint, Some(checkpoint(60_000)), "the checkpoint after a crash");
    world.store.release(&second.token).await?;
    let third = world.claim_one().await?;
    ensure_eq!(third.checkpoint, Some(checkpoint(60_000)), "the checkpoint after a release");
    world.audit().await
}

/// A job keeps the span that submitted it for every attempt, and takes no other from whoever attaches; without one there
/// is none.
pub async fn every_attempt_belongs_to_the_trace_of_the_submission<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (first, later) = (TraceParent::new([1; 16], [2; 8], true), TraceParent::new([3; 16], [4; 8], false));
    world.store.submit(NewSubmission { trace: first, ..world.upload("traced") }).await?;
    world.store.submit(NewSubmission { trace: later, ..world.upload("traced") }).await?;
    for attempt in ["the first attempt", "the second attempt"] {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.trace, first, "the trace of {attempt}");
        world.store.release(&lease.token).await?;
    }
    let lease = world.claim_one().await?;
    world.complete(&lease).await?;
    world.store.submit(world.upload("untraced")).await?;
    ensure_eq!(world.claim_one().await?.trace, None, "the trace of a job that was submitted without one");
    world.audit().await
}

/// Jobs that one worker holds have nothing else in common.
pub async fn the_failure_of_one_job_touches_no_other_of_its_worker<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let mut tickets = Vec::new();
    for number in 0..4 {
        tickets.push(world.ticket(&format!("talk {number}")).await?);
    }
    let leases = world.claim(&world.worker(), 4).await?;
    let [broken, cancelled, released, good] = &leases[..] else {
        return Err(super::Violation::new("four jobs are there to claim"));
    };
    world.fail(broken, FailureKind::BadAudio).await?;
    world.cancel(&tickets[1]).await?;
    world.fail(cancelled, FailureKind::Cancelled).await?;
    world.store.release(&released.token).await?;
    ensure_eq!(world.settle().await?.lapsed, 0, "leases that lapsed with the failure");
    let renewal = world.renew(&good.token).await?;
    ensure!(matches!(renewal, Renewal::Held { .. }), "the sibling's lease: {renewal:?}");
    world.complete(good).await?;
    let expected = [
        SubmissionStatus::Failed,
        SubmissionStatus::Cancelled,
        SubmissionStatus::Queued,
        SubmissionStatus::Completed,
    ];
    for (ticket, status) in tickets.iter().zip(expected) {
        world.expect(ticket, status).await?;
    }
    ensure!(!world.claim_one().await?.alone, "the one that was released is not isolated");
    world.audit().await
}

/// Where the service chose the model, the client learns which one it was; the choice is made anew for nobody else. So it
/// does what was noticed in the audio.
pub async fn a_completed_submission_shows_the_model_that_answered<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let mut new = world.upload("talk");
    new.options.any_model = true;
    let id = world.store.submit(new).await?.submission.id;
    let lease = world.claim_one().await?;
    ensure_eq!(world.get(&id).await?.options, lease.options, "what is asked for");
    let damage = Damage { lost_packets: 3, ended_early: true, unheard_bytes: 0 };
    let findings = Findings { damage, mixed_channels: 2, ..Findings::default() };
    let completion = Completion {
        engine: "azure-west".to_owned(),
        model: "latest \"general\"".to_owned(),
        findings,
        ..world.completion(&lease.token)
    };
    world.store.complete(&lease.token, completion).await?;
    let done = world.get(&id).await?;
    let shown = (done.engine.as_str(), done.options.model.as_str(), done.options.any_model);
    ensure_eq!(shown, ("azure-west", "latest \"general\"", false), "what answered");
    ensure_eq!(done.audio.findings, findings, "what was noticed");
    ensure_eq!(world.list().await?, vec![done], "the same in lists");
    let cached = world.submit("talk").await?.submission;
    ensure_eq!(cached.audio.findings, findings, "what was noticed, of an answer from the cache");
    ensure_eq!(cached.options.model, "latest \"general\"", "the model of an answer from the cache");
    world.audit().await
}
