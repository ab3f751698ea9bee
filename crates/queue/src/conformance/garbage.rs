//! Blobs that are to be deleted: when they are due, who takes them, what becomes of those that cannot be deleted.

use std::time::Duration;

use verbatim_core::failure::FailureKind;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::NewSubmission;
use verbatim_core::ports::jobs::{
    BlobFate, DeleteOutcome, GarbageRequest, JobClient, JobLeases, JobUpkeep, LONGEST_HOLD,
};
use verbatim_core::ports::{BlobKey, BlobOwner, JobAdmin};

use super::{Harness, Verdict, World, ensure, ensure_eq};

const GRACE: Duration = Duration::from_secs(600);
const HOLD: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

async fn take<H: Harness>(world: &World<'_, H>, most: usize) -> Verdict<Vec<BlobKey>> {
    Ok(world.store.take_garbage(GarbageRequest { most, grace: GRACE, hold: HOLD }).await?)
}

/// A store that comes back without its last moments finds the audio of what it completed in them.
pub async fn what_work_leaves_behind_is_kept_for_its_grace<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    let lease = world.work_off_one().await?;
    ensure_eq!(take(&world, 9).await?, vec![], "blobs due after success");
    let fates = world.store.fates(&[lease.blob.clone(), world.upload("").blob]).await?;
    ensure_eq!(fates, vec![BlobFate::ToBeDeleted, BlobFate::Unknown], "what a sweep is told meanwhile");
    world.clock.advance(GRACE - MOMENT);
    ensure_eq!(take(&world, 9).await?, vec![], "blobs due a moment before the grace is over");
    world.clock.advance(MOMENT);
    ensure_eq!(take(&world, 9).await?, vec![lease.blob.clone()], "blobs due after it");
    world.store.blobs_deleted(&[lease.blob]).await?;

    world.pass(world.policy.result_retention).await?;
    let result = BlobKey::for_result(&lease.token);
    ensure_eq!(world.garbage().await?, vec![result.clone()], "what its expiry leaves behind");
    world.clock.advance(GRACE);
    ensure_eq!(take(&world, 9).await?, vec![result], "the same when its grace is over");
    world.audit().await
}

/// Deletes a job that has not ended, as its client does: the first time cancels it, the second removes it.
async fn cancel_and_remove<H: Harness>(world: &World<'_, H>, id: &SubmissionId) -> Verdict {
    for outcome in [DeleteOutcome::Cancelled, DeleteOutcome::Removed] {
        ensure_eq!(world.store.delete(&world.tenant(), id).await?, Some(outcome), "what deleting it did");
    }
    Ok(())
}

/// A store that comes back from before a cancellation runs the job again, on audio that is there.
pub async fn what_a_client_cancels_is_kept_for_its_grace<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let waiting = world.upload("waiting");
    let (blob, waiting) = (waiting.blob.clone(), world.store.submit(waiting).await?.submission.id);
    world.store.delete(&world.tenant(), &waiting).await?;
    let running = world.ticket("running").await?;
    let lease = world.claim_one().await?;
    world.store.delete(&world.tenant(), &running).await?;
    world.fail(&lease, FailureKind::Cancelled).await?;
    world.clock.advance(GRACE - MOMENT);
    ensure_eq!(take(&world, 9).await?, vec![], "blobs due a moment before the grace is over");
    world.clock.advance(MOMENT);
    let mut due = take(&world, 9).await?;
    due.sort();
    let mut both = vec![blob, lease.blob];
    both.sort();
    ensure_eq!(due, both, "blobs due after it");
    world.audit().await
}

/// Who deletes what is theirs wants it gone: a job that has ended, also by being cancelled.
pub async fn what_a_client_deletes_has_no_grace<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let done = world.ticket("done").await?;
    let lease = world.work_off_one().await?;
    world.store.delete(&world.tenant(), &done).await?;
    let mut due = take(&world, 9).await?;
    due.sort();
    ensure_eq!(due, vec![lease.blob, BlobKey::for_result(&lease.token)], "audio and result of what was done");
    world.store.blobs_deleted(&due).await?;

    let waiting = world.upload("waiting");
    let (blob, waiting) = (waiting.blob.clone(), world.store.submit(waiting).await?.submission.id);
    cancel_and_remove(&world, &waiting).await?;
    ensure_eq!(take(&world, 9).await?, vec![blob.clone()], "audio of what waited");
    world.store.blobs_deleted(&[blob]).await?;

    let running = world.ticket("running").await?;
    let lease = world.claim_one().await?;
    world.store.delete(&world.tenant(), &running).await?;
    ensure_eq!(take(&world, 9).await?, vec![], "audio that is being worked on");
    world.fail(&lease, FailureKind::Cancelled).await?;
    ensure_eq!(take(&world, 9).await?, vec![], "audio of what was cancelled");
    world.store.delete(&world.tenant(), &running).await?;
    ensure_eq!(take(&world, 9).await?, vec![lease.blob.clone()], "audio that was worked on");
    world.store.blobs_deleted(&[lease.blob]).await?;

    world.ticket("failing").await?;
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::BadAudio).await?;
    ensure!(world.store.discard_dead_letter(&lease.token.job_id).await?, "the dead letter was there");
    ensure_eq!(take(&world, 9).await?, vec![lease.blob], "audio of a dead letter that was discarded");
    world.audit().await
}

/// Nodes share the deletions, and what one of them took and did not delete is taken again.
pub async fn each_blob_is_taken_by_one_node<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for number in 0..5 {
        cancel_and_remove(&world, &world.ticket(&format!("talk {number}")).await?).await?;
    }
    let (first, second) = (take(&world, 3).await?, take(&world, 3).await?);
    ensure_eq!((first.len(), second.len()), (3, 2), "blobs that two nodes take");
    ensure!(first.iter().all(|blob| !second.contains(blob)), "{first:?} and {second:?} are not the same");
    ensure_eq!(world.store.stats().await?.garbage, 5, "blobs that are listed meanwhile");
    world.store.blobs_deleted(&first).await?;
    world.store.blobs_deleted(&first).await?;
    world.clock.advance(HOLD - MOMENT);
    ensure_eq!(take(&world, 9).await?, vec![], "blobs to take while they are held");
    world.clock.advance(MOMENT);
    let mut again = take(&world, 9).await?;
    again.sort();
    ensure_eq!(again, second, "blobs that the second node did not delete");
    world.store.blobs_deleted(&again).await?;
    ensure_eq!(world.store.stats().await?.garbage, 0, "blobs that are listed at the end");
    world.audit().await
}

/// It is tried ever more rarely, and those that were listed after it get their turn at once.
pub async fn a_blob_that_cannot_be_deleted_keeps_no_other_from_it<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    cancel_and_remove(&world, &world.ticket("poison").await?).await?;
    let poison = take(&world, 1).await?;
    ensure_eq!(poison.len(), 1, "blobs to take");
    for number in 0..3 {
        cancel_and_remove(&world, &world.ticket(&format!("talk {number}")).await?).await?;
    }
    for _ in 0..3 {
        let next = take(&world, 1).await?;
        ensure!(next.len() == 1 && next != poison, "{next:?} is behind the one that cannot be deleted");
        world.store.blobs_deleted(&next).await?;
    }
    let mut hold = HOLD;
    for _ in 0..10 {
        world.clock.advance(hold - MOMENT);
        ensure_eq!(take(&world, 1).await?, vec![], "blobs to take while it is held for {hold:?}");
        world.clock.advance(MOMENT);
        ensure_eq!(take(&world, 1).await?, poison, "the blob after {hold:?}");
        hold = (hold * 2).min(HOLD * LONGEST_HOLD);
    }
    world.audit().await
}

/// Names with the store's id in them, beside those of before.
pub async fn blobs_of_a_store_with_an_id_are_known_by_their_names<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let store = world.store.identity().await?.id;
    let new = world.upload("talk");
    let audio = BlobKey::upload_of(&store, &new.job_id);
    let id = world.store.submit(NewSubmission { blob: audio.clone(), ..new }).await?.submission.id;
    let lease = world.claim_one().await?;
    ensure_eq!(lease.blob, audio, "the audio of the lease");
    let result = BlobKey::result_of(&store, &lease.token);
    ensure!(world.needs(&audio).await?, "the audio of a running job is needed");
    ensure!(world.needs(&result).await?, "the result that is being written is needed");
    let completion =
        verbatim_core::job::Completion { result: result.clone(), ..world.completion(&lease.token) };
    world.store.complete(&lease.token, completion).await?;
    ensure_eq!(world.get(&id).await?.result, Some(result.clone()), "the published result");
    ensure!(world.needs(&result).await?, "the published result is needed");
    ensure!(!world.needs(&BlobKey::for_result(&lease.token)).await?, "another name is not");
    ensure_eq!(world.garbage().await?, vec![audio], "what is to be deleted");
    world.store.delete(&world.tenant(), &id).await?;
    ensure!(world.garbage().await?.contains(&result), "the result goes with the job");
    world.audit().await
}

/// The id is made once; the mark only rises.
pub async fn a_store_keeps_its_id_and_raises_its_mark<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = world.store.identity().await?;
    ensure_eq!(first.mark, 0, "the mark of a store that has marked nothing");
    ensure_eq!(world.store.raise_mark(0).await?, 1, "the first mark");
    ensure_eq!(world.store.raise_mark(0).await?, 2, "the second");
    ensure_eq!(world.store.raise_mark(41).await?, 42, "one above what the marker says");
    let now = world.store.identity().await?;
    ensure_eq!((now.id, now.mark), (first.id, 42), "id and mark then");
    world.audit().await
}

/// Nodes take turns, and a store that may be older than its blobs lets none of them.
pub async fn one_node_sweeps_and_none_while_it_is_forbidden<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    ensure!(world.store.take_sweep("a", HOLD).await?, "the first who asks");
    ensure!(world.store.take_sweep("a", HOLD).await?, "and asks again");
    world.store.forbid_sweeps(GRACE).await?;
    world.clock.advance(GRACE - MOMENT);
    ensure!(!world.store.take_sweep("a", HOLD).await?, "while it is forbidden");
    world.clock.advance(MOMENT);
    ensure!(world.store.take_sweep("a", HOLD).await?, "after that");
    world.audit().await
}
