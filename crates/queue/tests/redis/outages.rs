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
async fn an_outage_of_which_a_node_has_heard_is_not_told_to_the_next() -> Result<()> {
    let harness = RedisHarness::new();
    let clock = Arc::new(VirtualClock::default());
    let node = async |first| {
        let ids = Arc::new(SeededIds::starting_at(first));
        harness.fresh(StorePolicy::default(), clock.clone(), ids).await
    };
    let (one, other) = (node(1_000_000).await?, node(2_000_000).await?);
    one.tick().await?;
    let away = Duration::from_secs(60);
    clock.advance(away);
    let _: () = harness.beside().hset(format!("{{{}}}:tick", harness.prefix()), "revived", 3)?;
    let heard = one.tick().await?;
    ensure!((heard.away, heard.revived) == (Some(away), 3), "{heard:?}");
    // It is busy with that for longer than its turn.
    clock.advance(Duration::from_millis(1600));
    let next = other.tick().await?;
    ensure!(!next.elsewhere, "the other one takes over");
    ensure!((next.away, next.revived) == (None, 0), "it is told the same again: {next:?}");
    Ok(())
}

/// A cluster of so many workers that nodes which do not tick hardly ask, and some of its nodes. They tick each half second.
struct Cluster {
    nodes: Vec<RedisStore>,
    clock: Arc<VirtualClock>,
}

const STEP: Duration = Duration::from_millis(500);

impl Cluster {
    async fn start(harness: &RedisHarness, nodes: u64) -> Result<Self> {
        let clock = Arc::new(VirtualClock::default());
        let mut cluster = Self { nodes: Vec::new(), clock };
        for number in 1..=nodes {
            let ids = Arc::new(SeededIds::starting_at(number * 1_000_000));
            let node = harness.fresh(StorePolicy::default(), cluster.clock.clone(), ids).await?;
            // As a worker does that has nothing to do.
            let waiting = node.clone();
            tokio::spawn(async move {
                loop {
                    waiting.work_may_be_there().await;
                }
            });
            cluster.nodes.push(node);
        }
        let ids = SeededIds::starting_at(1);
        for _ in 0..400 {
            let request = ClaimRequest {
                worker: WorkerId::generate(&ids),
                nonce: ClaimNonce::generate(&ids),
                idle: true,
                lease: Duration::from_secs(3600),
                abilities: Abilities::all(),
            };
            cluster.nodes[0].claim(request).await?;
        }
        // Each has been told how long it may wait.
        for _ in 0..4 {
            cluster.step().await?;
        }
        Ok(cluster)
    }

    /// Which node ticked, and what it noticed.
    async fn step(&self) -> Result<Option<(usize, Option<Duration>)>> {
        self.clock.advance(STEP);
        let mut ticked = None;
        for (at, node) in self.nodes.iter().enumerate() {
            let tick = node.tick().await?;
            if !tick.elsewhere {
                ensure!(ticked.is_none(), "two nodes tick");
                ticked = Some((at, tick.away));
            }
        }
        Ok(ticked)
    }

    async fn ticker(&self) -> Result<usize> {
        Ok(self.step().await?.context("somebody ticks")?.0)
    }

    /// How long nobody ticks.
    async fn silence(&self) -> Result<Duration> {
        for steps in 1..200 {
            // Word of a turn that is free travels on the real clock.
            sleep(Duration::from_millis(20)).await;
            if let Some((_, away)) = self.step().await? {
                ensure!(away.is_none(), "it looks like an outage of {away:?}");
                return Ok(STEP * steps);
            }
        }
        anyhow::bail!("nobody ticks any more")
    }
}

#[tokio::test]
async fn the_end_of_the_node_that_ticks_is_no_outage() -> Result<()> {
    let harness = RedisHarness::new();
    let mut cluster = Cluster::start(&harness, 8).await?;
    // Killed, one after the other.
    for _ in 0..4 {
        let ticker = cluster.ticker().await?;
        cluster.nodes.remove(ticker);
        let silence = cluster.silence().await?;
        ensure!(silence < Duration::from_secs(4), "nobody ticked for {silence:?}");
        for _ in 0..100 {
            cluster.step().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn scaling_down_to_a_few_nodes_is_no_outage() -> Result<()> {
    let harness = RedisHarness::new();
    let mut cluster = Cluster::start(&harness, 12).await?;
    let ticker = cluster.ticker().await?;
    // All that ticked or asked lately end together, each as it is told to.
    cluster.nodes.swap(0, ticker);
    for node in cluster.nodes.drain(..9) {
        node.hand_over().await?;
    }
    let silence = cluster.silence().await?;
    ensure!(silence < Duration::from_secs(4), "nobody ticked for {silence:?}");
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
