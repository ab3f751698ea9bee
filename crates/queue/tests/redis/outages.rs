//! A Redis that is frozen for longer than a lease, and who looks after the store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::Commands;
use tokio::time::{Instant, sleep};
use verbatim_core::class::Abilities;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::{ClaimNonce, WorkerId};
use verbatim_core::job::{JobState, Lease};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{ClaimRequest, Finish, Renewal};
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::{Harness, SeededIds, VirtualClock, World};

use crate::server::RedisServer;
use crate::support::RedisHarness;

const LEASE: Duration = Duration::from_millis(1500);

/// Claims on the server's own time, as workers do.
async fn hold(store: &RedisStore, ids: &SeededIds) -> Result<Lease> {
    let request = ClaimRequest {
        worker: WorkerId::generate(ids),
        nonce: ClaimNonce::generate(ids),
        idle: true,
        lease: LEASE,
        abilities: Abilities::all(),
    };
    store.claim(request).await?.context("a job is there")
}

#[tokio::test]
async fn living_workers_keep_their_jobs_while_redis_is_frozen_for_several_leases() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let ids = Arc::new(SeededIds::starting_at(1));
    let store = RedisStore::connect(harness.config(StorePolicy::default(), ids.clone())).await?;
    let world = World::open(&harness).await?;
    let mut leases = Vec::new();
    for number in 0..4 {
        store.submit(world.upload(&format!("talk {number}"))).await?;
        leases.push(hold(&store, &ids).await?);
    }
    ensure!(store.tick().await?.lapsed == 0, "the store is new");
    server.freeze();
    sleep(4 * LEASE).await;
    server.thaw();
    // An API node is back at once, and ticks; the workers renew only when most of a lease is over.
    let back = Instant::now();
    let mut away = Duration::ZERO;
    while back.elapsed() < LEASE * 2 / 3 {
        if let Ok(tick) = store.tick().await {
            ensure!(tick.lapsed == 0, "{} leases were taken from living workers", tick.lapsed);
            away = away.max(tick.away.unwrap_or_default());
        }
        sleep(Duration::from_millis(50)).await;
    }
    ensure!(away >= 3 * LEASE, "it was away for {away:?}, says the store");
    let tokens: Vec<_> = leases.iter().map(|lease| lease.token.clone()).collect();
    let renewals = store.renew(&tokens, LEASE).await?;
    ensure!(renewals.iter().all(|renewal| matches!(renewal, Renewal::Held { .. })), "{renewals:?}");
    for lease in &leases {
        let job: std::collections::HashMap<String, String> =
            harness.beside().hgetall(format!("{{{}}}:j:{}", harness.prefix(), lease.token.job_id.ulid()))?;
        ensure!(job["f"] == "1" && !job.contains_key("C") && !job.contains_key("D"), "{job:?}");
        let done = store.complete(&lease.token, world.completion(&lease.token)).await?;
        ensure!(done == Finish::Done(JobState::Completed), "{done:?}");
    }
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn one_node_ticks_for_the_cluster_and_another_takes_over_within_two_intervals() -> Result<()> {
    let harness = RedisHarness::new();
    let clock = Arc::new(VirtualClock::default());
    let node = async |first| {
        let ids = Arc::new(SeededIds::starting_at(first));
        harness.fresh(StorePolicy::default(), clock.clone(), ids).await
    };
    let world =
        World::resume(&harness, StorePolicy::default(), clock.clone(), Arc::new(SeededIds::starting_at(1)))
            .await?;
    let (one, other) = (node(1_000_000).await?, node(2_000_000).await?);
    ensure!(!one.tick().await?.elsewhere, "nobody ticks yet");
    world.ticket("talk").await?;
    world.fail(&world.claim_one().await?, FailureKind::EngineFailed).await?;
    let mut promoted = 0;
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        promoted += one.tick().await?.promoted;
        let beside = other.tick().await?;
        ensure!(beside.elsewhere && beside.promoted == 0, "two nodes tick: {beside:?}");
    }
    ensure!(promoted == 1, "{promoted} jobs were promoted");
    // The one that ticked dies.
    let mut silent = Duration::ZERO;
    while other.tick().await?.elsewhere {
        clock.advance(Duration::from_millis(250));
        silent += Duration::from_millis(250);
    }
    ensure!(silent <= Duration::from_secs(2), "nobody ticked for {silent:?}");
    ensure!(one.tick().await?.elsewhere, "the one that was replaced ticks, too");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn nodes_that_do_not_tick_hardly_ask() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let clock = Arc::new(VirtualClock::default());
    let mut nodes = Vec::new();
    for number in 1..=40 {
        let ids = Arc::new(SeededIds::starting_at(number * 1_000_000));
        nodes.push(harness.fresh(StorePolicy::default(), clock.clone(), ids).await?);
    }
    let ids = SeededIds::starting_at(1);
    // As many workers as nodes are there.
    for store in &nodes {
        let request = ClaimRequest {
            worker: WorkerId::generate(&ids),
            nonce: ClaimNonce::generate(&ids),
            idle: true,
            lease: Duration::from_secs(3600),
            abilities: Abilities::all(),
        };
        store.claim(request).await?;
    }
    let scripts = || -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("commandstats").query(&mut harness.beside())?;
        let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
        Ok(info.lines().filter(|line| line.starts_with("cmdstat_evalsha")).filter_map(calls).sum())
    };
    let before = scripts()?;
    for _ in 0..60 {
        clock.advance(Duration::from_secs(1));
        for store in &nodes {
            store.tick().await?;
        }
    }
    let each_second = (scripts()? - before) as f64 / 60.0;
    println!("{} nodes make {each_second:.1} scripts a second together by ticking", nodes.len());
    ensure!(each_second < 8.0, "{each_second} scripts a second");
    Ok(())
}
