//! Connections on which nobody answers any more although nobody closed them, and a Redis that is only slow.

use std::time::Duration;

use anyhow::{Result, ensure};
use verbatim_core::ids::SubmissionId;
use verbatim_core::ports::JobLeases;
use verbatim_queue::conformance::World;

use crate::line::Line;
use crate::server::RedisServer;
use crate::support::RedisHarness;

/// Asks for this job, one call after the other, until as many have been answered in a row as there are lanes and more.
/// Returns how many failed.
async fn until_it_answers(world: &World<'_, RedisHarness>, id: &SubmissionId) -> usize {
    let (mut failed, mut answered) = (0, 0);
    while answered < 8 {
        match world.get(id).await {
            Ok(_) => answered += 1,
            Err(_) => (failed, answered) = (failed + 1, 0),
        }
    }
    failed
}

#[tokio::test]
async fn connections_that_were_forgotten_on_the_way_are_left_after_two_time_outs() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    until_it_answers(&world, &id).await;
    line.forget_connections();
    let failed = until_it_answers(&world, &id).await;
    ensure!(failed == 2, "{failed} calls one after the other failed");
    world.work_off_one().await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn many_callers_at_once_lose_hardly_more_than_one_call_each() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    until_it_answers(&world, &id).await;
    let before = line.accepted();
    line.forget_connections();
    let failed = futures::future::join_all((0..64).map(|_| until_it_answers(&world, &id))).await;
    // Who is told first may ask again before the second time-out is counted.
    ensure!(failed.iter().sum::<usize>() <= 66, "calls that failed: {failed:?}");
    // The lanes, and the subscription.
    ensure!(line.accepted() - before <= 5, "{} new connections", line.accepted() - before);
    Ok(())
}

#[tokio::test]
async fn one_silent_connection_is_left_and_the_others_are_kept() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    until_it_answers(&world, &id).await;
    let before = line.accepted();
    // The first is a lane: opening the store asked over it.
    line.forget_the_first(1);
    let mut failed = 0;
    for _ in 0..16 {
        failed += usize::from(world.get(&id).await.is_err());
    }
    ensure!(failed == 2, "{failed} calls failed");
    ensure!(line.accepted() == before + 1, "{} new connections", line.accepted() - before);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_stalls_once_keeps_its_connections() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    until_it_answers(&world, &id).await;
    let before = line.accepted();
    redis.freeze();
    ensure!(world.get(&id).await.is_err(), "a frozen Redis answers");
    redis.thaw();
    ensure!(until_it_answers(&world, &id).await == 0, "it answers again, but calls fail");
    ensure!(line.accepted() == before, "{} new connections", line.accepted() - before);
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_was_forgotten_on_the_way_is_made_anew() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let beside = RedisHarness::at_through(&redis.url(), &redis.url()).named_as(&harness);
    let (world, other) = (World::open(&harness).await?, World::open(&beside).await?);
    let heard = async |name: &str| {
        other.ticket(name).await?;
        anyhow::Ok(
            tokio::time::timeout(Duration::from_secs(1), world.store.work_may_be_there()).await.is_ok(),
        )
    };
    let mut number = 0;
    while !heard(&format!("before {number}")).await? {
        number += 1;
    }
    // What arrived meanwhile.
    while tokio::time::timeout(Duration::from_millis(200), world.store.work_may_be_there()).await.is_ok() {}
    line.forget_connections();
    ensure!(!heard("lost").await?, "a forgotten subscription hears");
    // It notices by itself, for nobody asks anything over the lanes; being made anew, it wakes all.
    world.store.work_may_be_there().await;
    ensure!(heard("found").await?, "the new subscription does not hear");
    Ok(())
}
