//! A Redis that dies and is replaced by its copy, by sentinels and in a cluster: what had reached the copy lives on.

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

/// Asks until the answer is as wished; the runner of the tests ends what never comes.
async fn until(server: &RedisServer, question: &Cmd, wished: impl Fn(&str) -> bool) -> Result<()> {
    let mut connection = to(server)?;
    while !wished(&question.query::<String>(&mut connection)?) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn until_it_follows(replica: &RedisServer) -> Result<()> {
    until(replica, redis::cmd("INFO").arg("replication"), |info| info.contains("master_link_status:up")).await
}

/// Three jobs, one of them at work, when the master dies. Once the copy has taken over, everything is as it was, the lease
/// and its fence too, and the work goes on.
async fn live_on(harness: &RedisHarness, mut master: RedisServer) -> Result<()> {
    let world = World::open(harness).await?;
    let ids = [world.ticket("one").await?, world.ticket("two").await?, world.ticket("three").await?];
    let lease = world.claim_one().await?;
    let copies: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut to(&master)?)?;
    ensure!(copies == 1, "the copy does not follow");
    master.kill();

    // Until then calls are refused, which changes nothing.
    while world.get(&ids[0]).await.is_err() {
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
    Ok(())
}

#[tokio::test]
async fn sentinels_replace_a_master_that_dies_and_its_jobs_live_on() -> Result<()> {
    let master = RedisServer::start(&[]);
    let replica = RedisServer::replica_of(&master);
    until_it_follows(&replica).await?;
    let sentinel = RedisServer::sentinel_of(&master, "main");
    until(&sentinel, redis::cmd("INFO").arg("sentinel"), |info| info.contains("slaves=1")).await?;
    let url = format!("{}/main", sentinel.url().replacen("redis://", "redis+sentinel://", 1));
    live_on(&RedisHarness::at_through(&url, &replica.url()), master).await
}

#[tokio::test]
async fn a_cluster_replaces_a_node_that_dies_and_its_jobs_live_on() -> Result<()> {
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
    live_on(&harness, master).await
}
