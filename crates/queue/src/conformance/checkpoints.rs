//! Work that was done is not done again: whatever was reported last, the next worker gets it whole and nothing else.

use verbatim_core::failure::FailureKind;
use verbatim_core::job::{Lease, Report};
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{JobAdmin, JobLeases};
use verbatim_core::transcript::Segment;

use super::events::segment;
use super::virtual_world::LEASE;
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// A checkpoint with so many segments, as an engine writes it that says `words`.
pub fn checkpoint(words: &str, segments: u32) -> Checkpoint {
    let said = |index| Segment { text: format!("{words} {index}"), ..segment(index) };
    Checkpoint {
        revision: "fake-1".to_owned(),
        position_ms: u64::from(segments) * 1000,
        segments: (0..segments).map(said).collect(),
        state: serde_json::json!({ "heard": segments, "prompt": "a state that is longer than what a compact hash keeps as it is" }),
    }
}

async fn report<H: Harness>(world: &World<'_, H>, lease: &Lease, checkpoint: &Checkpoint) -> Verdict {
    let report = Report { checkpoint: Some(checkpoint.clone()), ..Report::default() };
    ensure!(world.store.report(&lease.token, report).await?, "the report of the current lease was refused");
    Ok(())
}

/// Ends the lease in one of the ways in which another worker goes on, and is that worker.
async fn next<H: Harness>(world: &World<'_, H>, lease: &Lease, round: usize) -> Verdict<Lease> {
    match round % 3 {
        0 => drop(world.pass(LEASE).await?),
        1 => drop(world.store.release(&lease.token).await?),
        _ => drop(world.fail(lease, FailureKind::EngineFailed).await?),
    }
    world.pass(world.policy.retry.max_delay).await?;
    world.claim_one().await
}

/// Under one lease and under the next ones, which begin where the one before left off.
pub async fn a_checkpoint_grows_under_one_lease_and_the_next<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("long talk").await?;
    let mut lease = world.claim_one().await?;
    for (round, counts) in
        [&[0, 3, 7][..], &[8, 8, 20], &[], &[2_500], &[2_501, 2_600]].into_iter().enumerate()
    {
        let before = lease.checkpoint.clone();
        for count in counts {
            report(&world, &lease, &checkpoint("word", *count)).await?;
        }
        lease = next(&world, &lease, round).await?;
        let expected = counts.last().map(|count| checkpoint("word", *count)).or(before);
        ensure!(lease.checkpoint == expected, "in round {round}: {:?}", reached(&lease));
    }
    world.complete(&lease).await?;
    world.audit().await
}

fn reached(lease: &Lease) -> Option<(u64, usize)> {
    lease.checkpoint.as_ref().map(|at| (at.position_ms, at.segments.len()))
}

/// Another engine took over, or what was heard last was heard otherwise: nothing of before is left, however much there was.
pub async fn a_checkpoint_that_starts_over_leaves_nothing_of_the_one_before<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    let mut lease = world.claim_one().await?;
    let changed_at = |from: usize, count| {
        let mut changed = checkpoint("word", count);
        changed.segments.splice(from.., checkpoint("other", count).segments.split_off(from));
        changed
    };
    let other = |count| Checkpoint { revision: "fake-2".to_owned(), ..checkpoint("other", count) };
    let nothing = Checkpoint { segments: Vec::new(), ..checkpoint("word", 9) };
    let stories = [
        vec![checkpoint("word", 10), other(3)],
        vec![checkpoint("word", 10), other(3), other(5)],
        vec![checkpoint("word", 10), changed_at(9, 10)],
        vec![checkpoint("word", 10), changed_at(4, 6), changed_at(4, 12)],
        vec![checkpoint("word", 10), checkpoint("word", 6), checkpoint("word", 7)],
        vec![checkpoint("word", 10), nothing.clone()],
        vec![nothing, checkpoint("word", 2)],
    ];
    for (round, story) in stories.iter().enumerate() {
        for at in story {
            report(&world, &lease, at).await?;
        }
        lease = next(&world, &lease, round).await?;
        ensure_eq!(lease.checkpoint.as_ref(), story.last(), "where story {round} goes on");
    }
    world.complete(&lease).await?;
    world.audit().await
}

/// Whoever got no answer says it again.
pub async fn a_checkpoint_reported_again_has_each_segment_once<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    let mut lease = world.claim_one().await?;
    for round in 0..3 {
        for count in [2, 2, 5, 5, 5, 9, 9] {
            report(&world, &lease, &checkpoint("word", count)).await?;
        }
        let expected = Checkpoint { position_ms: 9_900, ..checkpoint("word", 9) };
        for _ in 0..2 {
            // No segment is new.
            report(&world, &lease, &expected).await?;
        }
        lease = next(&world, &lease, round).await?;
        ensure_eq!(lease.checkpoint, Some(expected), "where it goes on in round {round}");
    }
    world.complete(&lease).await?;
    world.audit().await
}

/// It stays with a dead letter, and goes with it.
pub async fn a_dead_letter_keeps_its_checkpoint<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for work in ["redriven", "discarded"] {
        let id = world.ticket(work).await?;
        let lease = world.claim_one().await?;
        for count in [4, 6] {
            report(&world, &lease, &checkpoint(work, count)).await?;
        }
        world.fail(&lease, FailureKind::BadAudio).await?;
        let job = world.get(&id).await?.job_id;
        if work == "discarded" {
            ensure!(world.store.discard_dead_letter(&job).await?, "it is discarded");
            continue;
        }
        ensure!(world.store.redrive(&job).await?, "it is tried again");
        let redriven = world.claim_one().await?;
        ensure_eq!(redriven.checkpoint, Some(checkpoint(work, 6)), "where the redriven job goes on");
        world.complete(&redriven).await?;
    }
    world.audit().await
}
