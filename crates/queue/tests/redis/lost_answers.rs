//! Calls whose answer is lost on the way: the store repeats them by itself, and what they did stays as it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::Commands;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::jobs::DeleteOutcome;
use verbatim_core::ports::{JobAdmin, JobClient, JobUpkeep};
use verbatim_queue::conformance::World;

use crate::line::Line;
use crate::server::RedisServer;
use crate::support::RedisHarness;

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_is_done_once() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    // Every connection is open.
    for _ in 0..8 {
        world.get(&id).await?;
    }
    let tenant = world.get(&id).await?.tenant;
    line.lose_one();
    let outcome = world.store.delete(&tenant, &id).await?;
    ensure!(line.has_lost_it(), "the line has kept no answer back");
    ensure!(outcome == Some(DeleteOutcome::Cancelled), "{outcome:?}");
    let cancelled = world.store.get(&tenant, &id).await?.context("what was cancelled is still there")?;
    ensure!(cancelled.status == SubmissionStatus::Cancelled, "{cancelled:?}");
    for _ in 0..8 {
        world.get(&id).await?;
    }
    line.lose_one();
    let outcome = world.store.delete(&tenant, &id).await?;
    ensure!(line.has_lost_it(), "the line has kept no answer back");
    ensure!(outcome == Some(DeleteOutcome::Removed), "{outcome:?}");
    ensure!(world.store.get(&tenant, &id).await?.is_none(), "it was removed");
    ensure!(world.store.delete(&tenant, &id).await?.is_none(), "another call finds nothing");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_whose_answer_is_lost_is_redriven_or_discarded_once_and_said_so() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    let open = async || {
        for _ in 0..8 {
            world.get(&id).await?;
        }
        anyhow::Ok(())
    };
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::BadAudio).await?;
    open().await?;
    line.lose_one();
    let redriven = world.store.redrive(&lease.token.job_id).await?;
    ensure!(line.has_lost_it() && redriven, "it was queued, but the answer says that there was none");
    world.expect(&id, SubmissionStatus::Queued).await?;
    ensure!(!world.store.redrive(&lease.token.job_id).await?, "another call finds no dead letter");
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::BadAudio).await?;
    open().await?;
    line.lose_one();
    let discarded = world.store.discard_dead_letter(&lease.token.job_id).await?;
    ensure!(line.has_lost_it() && discarded, "it was discarded, but the answer says that there was none");
    ensure!(!world.store.discard_dead_letter(&lease.token.job_id).await?, "another call finds none");
    world.audit().await?;
    Ok(())
}

/// Whoever finds that the store was away has often given up waiting for it.
#[tokio::test]
async fn an_outage_is_told_once_whoever_hears_of_it() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    let away = Duration::from_secs(60);
    for time in 0..2 {
        world.store.tick().await?;
        // Every connection is open.
        for _ in 0..8 {
            world.get(&id).await?;
        }
        world.clock.advance(away);
        line.lose_one();
        let first = world.store.tick().await.ok().and_then(|tick| tick.away);
        ensure!(line.has_lost_it(), "the line has kept no answer back");
        let second = world.store.tick().await?.away;
        ensure!(first.or(second) == Some(away), "outage {time}: {first:?} {second:?}");
        ensure!(first.is_none() || second.is_none(), "outage {time} was told twice");
        ensure!(world.store.tick().await?.away.is_none(), "outage {time} was told twice");
    }
    world.audit().await?;
    Ok(())
}

/// Each lease that came back to a living worker is counted by one node, though an answer is lost.
#[tokio::test]
async fn leases_that_were_held_again_are_told_once_whoever_hears_of_them() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    for time in 0..2 {
        world.store.tick().await?;
        // Every connection is open.
        for _ in 0..8 {
            world.get(&id).await?;
        }
        let _: () = harness.beside().hincr(format!("{{{}}}:tick", harness.prefix()), "revived", 2)?;
        line.lose_one();
        let mut revived = world.store.tick().await.map_or(0, |tick| tick.revived);
        ensure!(line.has_lost_it(), "the line has kept no answer back");
        for _ in 0..2 {
            revived += world.store.tick().await?.revived;
        }
        ensure!(revived == 2, "time {time}: {revived} were told");
    }
    world.audit().await?;
    Ok(())
}
