//! Beside nodes of an earlier version, which queue every job for every worker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::{Commands, Connection};
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::ids::JobId;
use verbatim_core::job::{Lease, NewSubmission};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::jobs::ClaimRequest;
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};
use verbatim_queue::conformance::World;

use crate::server::RedisServer;
use crate::support::{RedisHarness, calls};

fn for_model(new: NewSubmission, model: &str) -> NewSubmission {
    NewSubmission { options: TranscribeOptions::for_model(model), ..new }
}

async fn claim(world: &World<'_, RedisHarness>, model: &str) -> Result<Option<Lease>> {
    let abilities = Abilities::of([JobClass::of(&TranscribeOptions::for_model(model))]);
    Ok(world.store.claim(ClaimRequest { abilities, ..world.request(&world.worker(), true) }).await?)
}

/// Queues all queued jobs anew, as the earlier version did.
fn as_before(redis: &mut Connection, prefix: &str) -> Result<()> {
    let key = |name: &str| format!("{{{prefix}}}:{name}");
    let all: Vec<String> = redis::cmd("KEYS").arg(key("*")).query(redis)?;
    for name in all.iter().filter_map(|name| name.strip_prefix(&key(""))) {
        if ["queue:", "lanes", "turns:"].iter().any(|kind| name.starts_with(kind)) {
            let _: () = redis.del(key(name))?;
        }
        let Some(job) = name.strip_prefix("j:") else { continue };
        let field = |redis: &mut Connection, field: &str| -> Result<Option<String>> {
            Ok(redis.hget(key(name), field)?)
        };
        if field(redis, "s")?.as_deref() != Some("q") {
            continue;
        }
        let of = |value: Option<String>| value.context("each job has one");
        let (tier, tenant) = (of(field(redis, "p")?)?, of(field(redis, "t")?)?);
        let (place, since): (i64, i64) = (of(field(redis, "o")?)?.parse()?, of(field(redis, "Q")?)?.parse()?);
        let _: () = redis.hdel(key(name), "K")?;
        if field(redis, "u")?.is_some() {
            let _: () = redis.zadd(key(&format!("u:{tier}")), job, place)?;
            let _: () = redis.zadd(key("uq"), job, since)?;
        } else {
            let _: () = redis.zadd(key(&format!("q:{tier}:{tenant}")), job, place)?;
            let _: () = redis.zadd(key(&format!("a:{tier}")), &tenant, 0)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn jobs_that_an_earlier_version_queued_are_adopted_with_their_class() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    world.isolate(for_model(world.upload("isolated"), "base")).await?;
    for number in 0..100 {
        let model = ["base", "tiny.en"][number % 2];
        world.store.submit(for_model(world.upload(&format!("talk {number}")), model)).await?;
    }
    as_before(&mut harness.beside(), harness.prefix())?;
    ensure!(claim(&world, "base").await?.is_none(), "nobody adopted them yet");
    // Upkeep takes them over in several rounds, though there is nothing else to do.
    for _ in 0..3 {
        world.settle().await?;
    }
    world.audit().await?;
    for (model, count) in [("tiny.en", 50), ("base", 51)] {
        for number in 0..count {
            let lease =
                claim(&world, model).await?.with_context(|| format!("{number} of {count} for {model}"))?;
            ensure!(
                lease.options.model == model && lease.alone == (lease.audio.sha256 == "isolated"),
                "{lease:?}"
            );
            world.complete(&lease).await?;
        }
        ensure!(claim(&world, model).await?.is_none(), "there are no more for {model}");
    }
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_an_earlier_version_cancelled_is_not_given() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let gone: JobId = world.submit("gone").await?.submission.job_id;
    world.ticket("wanted").await?;
    // It takes the job out of its own queue, and knows of no other.
    let _: () = harness.beside().hset(format!("{{{}}}:j:{}", harness.prefix(), gone.ulid()), "s", "x")?;
    let leases = world.claim(&world.worker(), 2).await?;
    let works: Vec<_> = leases.iter().map(|lease| lease.audio.sha256.as_str()).collect();
    ensure!(works == ["wanted"], "{works:?}");
    Ok(())
}

#[tokio::test]
async fn tenants_whose_submissions_an_earlier_version_took_or_removed_are_counted_rightly() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    let holders = format!("{{{}}}:holders", harness.prefix());
    world.ticket("taken by such a node").await?;
    let _: () = beside.del(&holders)?;
    world.settle().await?;
    ensure!(world.store.stats().await?.holders == 1, "the walk over all jobs finds it");
    let _: () = beside.zadd(&holders, "of which such a node removed the last", world.now().as_millis())?;
    world.settle().await?;
    ensure!(world.store.stats().await?.holders == 2, "each is looked at once a minute");
    world.pass(Duration::from_secs(60)).await?;
    ensure!(world.store.stats().await?.holders == 1, "only the other holds something");
    world.audit().await?;
    Ok(())
}

/// Pages of the walk over all jobs in so many ticks.
async fn pages(world: &World<'_, RedisHarness>, redis: &mut Connection, ticks: u32) -> Result<u64> {
    let before = calls(redis, "zscan")?;
    for _ in 0..ticks {
        world.store.tick().await?;
    }
    Ok(calls(redis, "zscan")? - before)
}

#[tokio::test]
async fn a_wrong_counter_does_not_hurry_the_walk_for_ever() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    for number in 0..3 {
        world.ticket(&format!("talk {number}")).await?;
    }
    let _: () = beside.hincr(format!("{{{}}}:n", harness.prefix()), "q1", 2)?;
    let hurried = pages(&world, &mut beside, 1).await?;
    ensure!(hurried > 1, "{hurried} pages where a job may be in no lane");
    pages(&world, &mut beside, 2).await?;
    let then = pages(&world, &mut beside, 10).await?;
    ensure!(then == 10, "{then} pages in 10 ticks, after whole rounds that righted nothing");
    // Jobs that a node of before queues now are looked for at once.
    world.ticket("of before").await?;
    as_before(&mut beside, harness.prefix())?;
    pages(&world, &mut beside, 1).await?;
    let lanes: Vec<u64> = beside.hvals(format!("{{{}}}:lanes", harness.prefix()))?;
    ensure!(lanes.iter().sum::<u64>() == 4, "{lanes:?} jobs are in lanes");
    Ok(())
}
