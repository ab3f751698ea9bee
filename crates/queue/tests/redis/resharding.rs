//! The queue's slot moves to another node of a Redis Cluster, key by key, while nodes of ours work.

use anyhow::{Result, ensure};
use redis::{Commands, Connection};
use verbatim_core::ErrorKind;
use verbatim_core::PortError;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::{JobClient, JobUpkeep};
use verbatim_queue::conformance::World;

use crate::server::RedisServer;
use crate::support::RedisHarness;

struct Nodes {
    from: RedisServer,
    to: RedisServer,
}

fn connection(server: &RedisServer) -> Result<Connection> {
    Ok(redis::Client::open(server.url())?.get_connection()?)
}

fn cluster(server: &RedisServer, arguments: &[&str]) -> Result<String> {
    Ok(redis::cmd("CLUSTER").arg(arguments).query(&mut connection(server)?)?)
}

fn keys(server: &RedisServer) -> Result<Vec<String>> {
    let mut keys: Vec<String> = connection(server)?.keys("*")?;
    keys.sort();
    Ok(keys)
}

impl Nodes {
    /// Two nodes that know each other; all slots lie on the first.
    async fn start() -> Result<Self> {
        let [from, to] = [(); 2].map(|()| RedisServer::start(&["--cluster-enabled", "yes"]));
        cluster(&from, &["ADDSLOTSRANGE", "0", "16383"])?;
        cluster(&to, &["MEET", "127.0.0.1", &from.port().to_string()])?;
        for node in [&from, &to] {
            loop {
                let info = cluster(node, &["INFO"])?;
                if info.contains("cluster_known_nodes:2") && info.contains("cluster_state:ok") {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(Self { from, to })
    }

    fn harness(&self) -> RedisHarness {
        let url = self.from.url().replacen("redis://", "redis+cluster://", 1);
        RedisHarness::at_through(&url, &self.to.url())
    }

    fn begin(&self, slot: &str) -> Result<()> {
        cluster(&self.to, &["SETSLOT", slot, "IMPORTING", &cluster(&self.from, &["MYID"])?])?;
        cluster(&self.from, &["SETSLOT", slot, "MIGRATING", &cluster(&self.to, &["MYID"])?])?;
        Ok(())
    }

    /// Moves these keys. One that the other node has too ends it: BUSYKEY.
    fn carry<'k>(&self, keys: impl Iterator<Item = &'k String>) -> Result<()> {
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.to.port()).arg("").arg(0).arg(5000).arg("KEYS");
        keys.for_each(|key| {
            migrate.arg(key);
        });
        Ok(migrate.exec(&mut connection(&self.from)?)?)
    }

    fn end(&self, slot: &str) -> Result<()> {
        let to = cluster(&self.to, &["MYID"])?;
        for node in [&self.to, &self.from] {
            cluster(node, &["SETSLOT", slot, "NODE", &to])?;
        }
        Ok(())
    }
}

fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, PortError>) -> Result<()> {
    match answer {
        Err(error) => {
            let waits = error.kind() == ErrorKind::Unavailable && error.retry_after().is_some();
            ensure!(waits && error.is_definite(), "{what}: {error:?}");
            Ok(())
        }
        Ok(done) => anyhow::bail!("{what} was done while half of the keys lay elsewhere: {done:?}"),
    }
}

/// Half of the keys move while clients and workers go on asking, and `layout_moves_first` says whether the key by which scripts know the
/// queue is among them. Nothing is done meanwhile, nothing is made twice, and everything goes on afterwards.
async fn half_way(layout_moves_first: bool) -> Result<()> {
    let nodes = Nodes::start().await?;
    let harness = nodes.harness();
    let world = World::open(&harness).await?;
    let works = ["one", "two", "three"];
    let mut ids = Vec::new();
    for work in works {
        ids.push(world.ticket(work).await?);
    }
    let lease = world.claim_one().await?;
    let mut beside = connection(&nodes.from)?;
    let slot: u16 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(harness.prefix()).query(&mut beside)?;
    let slot = slot.to_string();
    let mut condition = world.store.condition();
    let all = keys(&nodes.from)?;
    let (layout, others): (Vec<_>, Vec<_>) = all.iter().partition(|key| key.ends_with(":layout"));
    let (mut first, mut second): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for (number, key) in others.into_iter().enumerate() {
        if number % 2 == 0 { first.push(key) } else { second.push(key) }
    }
    if layout_moves_first {
        first.extend(layout)
    } else {
        second.extend(layout)
    }

    nodes.begin(&slot)?;
    refused("before a key moved: a submission", world.store.submit(world.upload("one")).await)?;
    nodes.carry(first.iter().copied())?;
    let mut moved: Vec<_> = first.iter().map(|key| (*key).clone()).collect();
    moved.sort();
    for work in works {
        refused("a submission", world.store.submit(world.upload(work)).await)?;
    }
    refused("a look", world.store.get(&verbatim_core::ids::TenantId::default(), &ids[0]).await)?;
    refused("a tick", world.store.tick().await)?;
    ensure!(world.claim(&world.worker(), 1).await.is_err(), "a claim was answered");
    ensure!(world.complete(&lease).await.is_err(), "a completion was answered");
    ensure!(condition.wait_for(|condition| condition.slot_moves).await?.replaced == 0, "it counts as lost");
    ensure!(keys(&nodes.to)? == moved, "something was written on the way");

    nodes.carry(second.iter().copied())?;
    nodes.end(&slot)?;
    ensure!(condition.wait_for(|condition| !condition.slot_moves).await?.replaced == 0, "it counts as lost");
    for work in works {
        world.store.submit(world.upload(work)).await?;
    }
    let jobs = keys(&nodes.to)?.into_iter().filter(|key| key.contains(":j:")).count();
    ensure!(jobs == works.len(), "{jobs} jobs of {} works", works.len());
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
async fn nothing_is_done_while_half_of_the_queue_lies_on_another_node() -> Result<()> {
    half_way(false).await
}

#[tokio::test]
async fn nothing_is_done_while_the_first_half_of_the_queue_lies_on_another_node() -> Result<()> {
    half_way(true).await
}
