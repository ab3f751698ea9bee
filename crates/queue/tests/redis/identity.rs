//! A store that is full, that came back without its data, or that refuses a login that worked before.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use redis::Commands;
use verbatim_core::ErrorKind;
use verbatim_core::ids::WorkerId;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::registry::{EngineOffer, EngineRegistry};
use verbatim_core::ports::{JobClient, JobUpkeep};
use verbatim_core::time::Timestamp;
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::{SeededIds, World};

use crate::server::RedisServer;
use crate::support::RedisHarness;

fn offer(worker: u8) -> Result<EngineOffer> {
    Ok(EngineOffer {
        worker: WorkerId::from_ulid(&format!("{worker:026}")).context("an id")?,
        version: "1".to_owned(),
        models: Vec::new(),
        announced_at: Timestamp::from_millis(0),
    })
}

async fn another_node(harness: &RedisHarness) -> Result<RedisStore> {
    let config = harness.config(StorePolicy::default(), Arc::new(SeededIds::starting_at(7)));
    Ok(RedisStore::connect(config).await?)
}

#[tokio::test]
async fn nodes_start_on_a_full_redis_and_workers_announce_themselves() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").exec(&mut harness.beside())?;
    ensure!(world.store.submit(world.upload("more")).await.is_err(), "it is not full");

    let node = another_node(&harness).await?;
    ensure!(node.store_id() == world.store.store_id(), "another store");
    node.announce(offer(1)?).await?;
    ensure!(node.offers().await?.len() == 1, "what was announced is not there");
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_starts_on_a_full_redis_that_holds_no_queue_yet() -> Result<()> {
    let server = RedisServer::start(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    another_node(&RedisHarness::at(&server.url())).await?;
    Ok(())
}

#[tokio::test]
async fn a_queue_of_a_version_without_store_ids_gets_one_that_all_nodes_agree_on() -> Result<()> {
    let harness = RedisHarness::new();
    let _: () = harness.beside().set(format!("{{{}}}:layout", harness.prefix()), "1")?;
    let (one, other) = (another_node(&harness).await?, another_node(&harness).await?);
    ensure!(one.store_id().len() == 26 && one.store_id() == other.store_id(), "{}", other.store_id());
    Ok(())
}

#[tokio::test]
async fn a_redis_that_came_back_empty_is_noticed_by_every_node() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let other = another_node(&harness).await?;
    world.ticket("talk").await?;
    let before = world.store.store_id();
    let mut conditions = [world.store.condition(), other.condition()];
    redis::cmd("FLUSHALL").exec(&mut harness.beside())?;

    for condition in &mut conditions {
        let seen = condition.wait_for(|condition| condition.replaced == 1).await?;
        ensure!(seen.id != before && !seen.slot_moves, "{seen:?}");
    }
    ensure!(world.store.store_id() == other.store_id(), "two nodes see two stores");
    // And it is a queue like any other.
    let id = world.ticket("another").await?;
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_into_a_redis_that_lost_the_queue_before_that_is_noticed() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    world.ticket("talk").await?;
    let mut beside = harness.beside();
    let layout = format!("{{{}}}:layout", harness.prefix());
    // Scripts look before every step, the watching only now and then: most of these meet a script.
    let mut refused = 0;
    for number in 0..32 {
        let _: () = beside.del(&layout)?;
        match world.store.submit(world.upload(&format!("work {number}"))).await {
            Ok(_) => {}
            Err(error) => {
                let here = error.kind() == ErrorKind::Unavailable && error.is_definite();
                ensure!(here && error.retry_after().is_some(), "it says {error:?}");
                refused += 1;
            }
        }
    }
    ensure!(refused > 0, "every submission found a queue");
    Ok(())
}

#[tokio::test]
async fn a_login_that_is_refused_for_a_while_is_an_outage() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    let lease = world.claim_one().await?;
    let mut beside = harness.beside();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("secret").exec(&mut beside)?;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut beside)?;

    let error = world.store.ping().await.err().context("a login that is refused works")?;
    ensure!(error.kind() == ErrorKind::Unavailable, "it says {error:?}");
    ensure!(error.retry_after().is_some(), "it does not say when to try again");

    // A worker that has a result in hand keeps it.
    let error = world.complete(&lease).await.err().context("a login that is refused works")?;
    let text = format!("{error:?}");
    ensure!(text.contains("Unavailable") && text.contains("login"), "it says {text}");

    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("").exec(&mut beside)?;
    world.complete(&lease).await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}
