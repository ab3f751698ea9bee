//! A Redis that dies or hangs and is replaced by its copy, by sentinels and in a cluster: what had reached the copy lives on.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis::{Cmd, Connection};
use verbatim_core::job::SubmissionStatus;
use verbatim_queue::conformance::World;

use crate::server::RedisServer;
use crate::support::RedisHarness;

/// Nodes that take another for dead after a second of silence.
const CLUSTERED: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
/// All slots but two belong to the node that dies; the other two have one each, because only who has slots may vote.
const LAST_SLOT: u16 = 16_381;

fn to(server: &RedisServer) -> Result<Connection> {
    Ok(redis::Client::open(server.url())?.get_connection()?)
}

/// Asks until the answer is as wished; the runner of the tests ends what never comes. A server whose role changes closes
/// its connections.
async fn until(server: &RedisServer, question: &Cmd, wished: impl Fn(&str) -> bool) -> Result<()> {
    let ask = || anyhow::Ok(question.query::<String>(&mut to(server)?)?);
    while !ask().is_ok_and(|answer| wished(&answer)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn until_it_follows(replica: &RedisServer) -> Result<()> {
    until(replica, redis::cmd("INFO").arg("replication"), |info| info.contains("master_link_status:up")).await
}

/// Three jobs, one of them at work, when `fails` happens to the master. Once the copy has taken over, everything is as it was,
/// the lease and its fence too, and the work goes on. Returns how many calls failed before that, one after the other.
async fn live_on(
    world: &World<'_, RedisHarness>,
    master: &RedisServer,
    fails: impl FnOnce(),
) -> Result<usize> {
    let ids = [world.ticket("one").await?, world.ticket("two").await?, world.ticket("three").await?];
    let lease = world.claim_one().await?;
    let copies: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut to(master)?)?;
    ensure!(copies == 1, "the copy does not follow");
    fails();

    // Until then calls are refused, which changes nothing.
    let mut failed = 0;
    while world.get(&ids[0]).await.is_err() {
        failed += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for id in &ids {
        let status = world.get(id).await?.status;
        ensure!(!status.is_terminal(), "a job has ended by itself: {status:?}");
    }
    world.complete(&lease).await?;
    world.work_off_one().await?;
    world.work_off_one().await?;
    for id in &ids {
        world.expect(id, SubmissionStatus::Completed).await?;
    }
    world.audit().await?;
    Ok(failed)
}

/// A master, its copy and a sentinel that knows both.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    _sentinel: RedisServer,
    url: String,
}

impl Watched {
    async fn start() -> Result<Self> {
        let master = RedisServer::start(&[]);
        let replica = RedisServer::replica_of(&master);
        until_it_follows(&replica).await?;
        let sentinel = RedisServer::sentinel_of(&master, "main");
        // It has heard of the copy from the master; it promotes it only once the copy itself has answered it.
        let mut connection = to(&sentinel)?;
        loop {
            let copies: Vec<HashMap<String, String>> =
                redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut connection)?;
            if copies.iter().any(|copy| copy.get("master-link-status").is_some_and(|status| status == "ok")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let url = format!("{}/main", sentinel.url().replacen("redis://", "redis+sentinel://", 1));
        Ok(Self { master, replica, _sentinel: sentinel, url })
    }

    fn harness(&self) -> RedisHarness {
        RedisHarness::at_through(&self.url, &self.replica.url())
    }
}

#[tokio::test]
async fn sentinels_replace_a_master_that_dies_and_its_jobs_live_on() -> Result<()> {
    let watched = Watched::start().await?;
    let harness = watched.harness();
    let world = World::open(&harness).await?;
    live_on(&world, &watched.master, || watched.master.die()).await?;
    Ok(())
}

/// How often a command that matches was called on this server.
fn calls(server: &RedisServer, name: &str) -> Result<u64> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut to(server)?)?;
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
    Ok(line.and_then(|rest| rest.split(',').next()).map_or(Ok(0), str::parse)?)
}

#[tokio::test]
async fn a_master_that_hangs_is_left_and_never_asked_again() -> Result<()> {
    let watched = Watched::start().await?;
    let harness = watched.harness();
    let world = World::open(&harness).await?;
    let failed = live_on(&world, &watched.master, || watched.master.freeze()).await?;
    // Two time-outs of five seconds; opening a lane may meet the old master or a sentinel that has not decided yet.
    println!("a master that hangs costs one caller {failed} calls");
    ensure!(failed <= 5, "{failed} calls failed");

    watched.master.thaw();
    until(&watched.master, redis::cmd("INFO").arg("replication"), |info| info.contains("role:slave")).await?;
    let before = calls(&watched.master, "evalsha")?;
    let id = world.ticket("four").await?;
    for _ in 0..8 {
        world.get(&id).await?;
    }
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    ensure!(calls(&watched.master, "evalsha")? == before, "the old master was asked");
    Ok(())
}

/// A cluster whose first node has a copy, and a harness whose slot lies there.
async fn cluster() -> Result<([RedisServer; 4], RedisHarness)> {
    let [master, second, third, replica] = [(); 4].map(|()| RedisServer::start(&CLUSTERED));
    let ask = |server: &RedisServer, arguments: &[&str]| -> Result<String> {
        Ok(redis::cmd("CLUSTER").arg(arguments).query(&mut to(server)?)?)
    };
    let slots = |server: &RedisServer, first: u16, last: u16| {
        ask(server, &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()])
    };
    slots(&master, 0, LAST_SLOT)?;
    slots(&second, LAST_SLOT + 1, LAST_SLOT + 1)?;
    slots(&third, LAST_SLOT + 2, LAST_SLOT + 2)?;
    for other in [&second, &third, &replica] {
        ask(other, &["MEET", "127.0.0.1", &master.port().to_string()])?;
    }
    let members = [&master, &second, &third, &replica];
    for node in members {
        let all_known =
            |info: &str| info.contains("cluster_known_nodes:4") && info.contains("cluster_state:ok");
        until(node, redis::cmd("CLUSTER").arg("INFO"), all_known).await?;
    }
    let id = ask(&master, &["MYID"])?;
    ask(&replica, &["REPLICATE", &id])?;
    until_it_follows(&replica).await?;
    for node in members {
        until(node, redis::cmd("CLUSTER").arg("NODES"), |nodes| nodes.contains(&format!("slave {id}")))
            .await?;
    }

    let nodes = members.map(|node| format!("127.0.0.1:{}", node.port())).join(",");
    let url = format!("redis+cluster://{nodes}");
    // One prefix in eight thousand would lie with those who stay.
    let slot_of = |harness: &RedisHarness| -> Result<u16> {
        Ok(redis::cmd("CLUSTER").arg("KEYSLOT").arg(harness.prefix()).query(&mut to(&second)?)?)
    };
    let mut harness = RedisHarness::at_through(&url, &replica.url());
    while slot_of(&harness)? > LAST_SLOT {
        harness = RedisHarness::at_through(&url, &replica.url());
    }
    Ok(([master, second, third, replica], harness))
}

#[tokio::test]
async fn a_cluster_replaces_a_node_that_dies_and_its_jobs_live_on() -> Result<()> {
    let ([master, _second, _third, _replica], harness) = cluster().await?;
    let world = World::open(&harness).await?;
    live_on(&world, &master, || master.die()).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_of_a_cluster_that_hangs_is_left() -> Result<()> {
    let ([master, _second, _third, _replica], harness) = cluster().await?;
    let world = World::open(&harness).await?;
    let failed = live_on(&world, &master, || master.freeze()).await?;
    ensure!(failed <= 6, "{failed} calls failed");
    Ok(())
}
