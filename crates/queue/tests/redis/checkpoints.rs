//! What a checkpoint costs on the way to Redis and in it, and what becomes of one of which something was lost.

use anyhow::{Context, Result, ensure};
use redis::{Commands, Connection};
use verbatim_core::ids::IdSource;
use verbatim_core::job::{Lease, Report};
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::time::Clock;
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::World;
use verbatim_queue::conformance::checkpoints::checkpoint;

use crate::line::Line;
use crate::server::RedisServer;
use crate::support::RedisHarness;

/// Segments that are new with each checkpoint.
const STEP: u32 = 5;

async fn report(store: &RedisStore, lease: &Lease, at: &Checkpoint) -> Result<()> {
    let report = Report { checkpoint: Some(at.clone()), ..Report::default() };
    ensure!(store.report(&lease.token, report).await?, "the report of the current lease was refused");
    Ok(())
}

/// Bytes that Redis has been sent, and bytes in its append-only file.
fn bytes(beside: &mut Connection) -> Result<[u64; 2]> {
    let info: String = redis::cmd("INFO").arg("all").query(beside)?;
    let number = |name: &str| -> Result<u64> {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(found.with_context(|| format!("Redis does not tell {name}"))?.trim().parse()?)
    };
    Ok([number("total_net_input_bytes")?, number("aof_current_size")?])
}

#[tokio::test]
async fn the_hundredth_checkpoint_costs_what_the_tenth_does() -> Result<()> {
    let server = RedisServer::start(&["--appendonly", "yes"]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    world.ticket("long talk").await?;
    let lease = world.claim_one().await?;
    let mut beside = harness.beside();
    let mut costs = [[0; 2]; 2];
    for number in 0..=105 {
        let before = bytes(&mut beside)?;
        report(&world.store, &lease, &checkpoint("word", number * STEP)).await?;
        let after = bytes(&mut beside)?;
        let early = match number {
            6..=15 => 0,
            96..=105 => 1,
            _ => continue,
        };
        for (cost, (after, before)) in costs[early].iter_mut().zip(after.into_iter().zip(before)) {
            *cost += after - before;
        }
    }
    for (what, early, late) in [("sent", costs[0][0], costs[1][0]), ("written", costs[0][1], costs[1][1])] {
        println!("bytes {what} for ten checkpoints: {early} around the 10th, {late} around the 100th");
        ensure!(
            early > 0 && late < early * 3 / 2,
            "{early} bytes {what} around the 10th, {late} around the 100th"
        );
    }
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_whose_answer_is_lost_has_each_segment_once() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    let mut lease = world.claim_one().await?;
    for round in 1..4 {
        for count in [3, 7, 8] {
            // Every connection is open.
            for _ in 0..8 {
                world.get(&id).await?;
            }
            line.lose_one();
            report(&world.store, &lease, &checkpoint("word", round * count)).await?;
            ensure!(line.has_lost_it(), "the line has kept no answer back");
        }
        world.die().await?;
        lease = world.claim_one().await?;
        ensure!(lease.checkpoint == Some(checkpoint("word", round * 8)), "in round {round}: {lease:?}");
    }
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

/// A failover loses what was written last; a connection that is taken for dead has delivered; two processes may share a
/// lease. The store then has other segments than the worker thinks, and is told all of them.
#[tokio::test]
async fn a_checkpoint_that_builds_on_what_is_not_there_is_told_whole() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    world.ticket("talk").await?;
    let mut lease = world.claim_one().await?;
    let clock: std::sync::Arc<dyn Clock> = world.clock.clone();
    let ids: std::sync::Arc<dyn IdSource> = world.ids.clone();
    let beside = RedisStore::connect_with_clock(harness.config(world.policy, ids), clock).await?;
    let mut redis = harness.beside();
    let key =
        |kind: &str, lease: &Lease| format!("{{{}}}:{kind}:{}", harness.prefix(), lease.token.job_id.ulid());
    for round in 0..6 {
        for count in [4, 6] {
            report(&world.store, &lease, &checkpoint("word", count)).await?;
        }
        let (list, job) = (key("hs", &lease), key("j", &lease));
        match round {
            0 => report(&beside, &lease, &checkpoint("other", 6)).await?,
            1 => report(&beside, &lease, &checkpoint("word", 4)).await?,
            2 => report(&beside, &lease, &checkpoint("word", 9)).await?,
            3 => redis.rpop::<_, ()>(&list, None)?,
            4 => redis.del::<_, ()>(&list)?,
            _ => {
                redis.del::<_, ()>(&list)?;
                redis.hdel::<_, _, ()>(&job, "ck")?;
            }
        }
        report(&world.store, &lease, &checkpoint("word", 8)).await?;
        world.store.release(&lease.token).await?;
        lease = world.claim_one().await?;
        ensure!(lease.checkpoint == Some(checkpoint("word", 8)), "in round {round}: {lease:?}");
    }
    // Nobody reported since it broke: the work begins again.
    redis.rpop::<_, ()>(key("hs", &lease), None)?;
    world.store.release(&lease.token).await?;
    lease = world.claim_one().await?;
    ensure!(lease.checkpoint.is_none(), "{lease:?}");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}
