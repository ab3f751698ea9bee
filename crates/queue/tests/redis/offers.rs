//! What workers offer: once for all that say the same, also beside nodes of an earlier version, which keep one for each.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis::{Commands, Connection};
use verbatim_core::ids::WorkerId;
use verbatim_core::model::ModelInfo;
use verbatim_core::ports::EngineRegistry;
use verbatim_core::ports::registry::EngineOffer;
use verbatim_queue::conformance::World;

use crate::server::RedisServer;
use crate::support::{RedisHarness, calls};

fn offer(world: &World<'_, RedisHarness>, worker: &WorkerId, models: &[&str]) -> EngineOffer {
    let model = |name: &&str| ModelInfo {
        name: (*name).to_owned(),
        engine: "whisper".to_owned(),
        multilingual: true,
        translates: true,
        diarizes: false,
        revision: "r".to_owned(),
    };
    EngineOffer {
        worker: worker.clone(),
        version: "1.0.0".to_owned(),
        models: models.iter().map(model).collect(),
        announced_at: world.now(),
    }
}

/// Bytes that Redis has sent and received.
fn traffic(redis: &mut Connection) -> Result<i64> {
    let info: String = redis::cmd("INFO").arg("stats").query(redis)?;
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.parse::<i64>().ok());
    Ok(of("total_net_input_bytes:").unwrap_or(0) + of("total_net_output_bytes:").unwrap_or(0))
}

/// The models of each distinct offer.
async fn models(world: &World<'_, RedisHarness>) -> Result<Vec<Vec<String>>> {
    let offers = world.store.distinct_offers().await?;
    let names = |offer: EngineOffer| offer.models.into_iter().map(|model| model.name).collect();
    let mut all: Vec<Vec<String>> = offers.into_iter().map(names).collect();
    all.sort();
    Ok(all)
}

#[tokio::test]
async fn a_thousand_equal_workers_are_one_offer() -> Result<()> {
    const WORKERS: usize = 1000;
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    let mut seen = Vec::new();
    for _ in 0..WORKERS {
        let new = offer(&world, &world.worker(), &["large-v3", "base"]);
        let before = traffic(&mut beside)?;
        world.store.announce(new).await?;
        world.store.distinct_offers().await?;
        seen.push(traffic(&mut beside)? - before);
    }
    // The first call loads scripts.
    let (early, late) = (seen[1], seen[WORKERS - 1]);
    println!("a worker's announcement and an answer are {early} bytes for the first and {late} for the last");
    ensure!((late - early).abs() < 100, "{early} bytes became {late}");
    let key = format!("{{{}}}:offers", harness.prefix());
    let (offers, bytes): (usize, usize) =
        (beside.hlen(&key)?, redis::cmd("MEMORY").arg("USAGE").arg(&key).query(&mut beside)?);
    ensure!(offers == 1 && bytes < 2000, "{offers} offers take {bytes} bytes");
    ensure!(world.store.offers().await?.len() == WORKERS, "each worker is still told");
    Ok(())
}

#[tokio::test]
async fn an_offer_stands_until_its_last_worker_has_been_gone_for_a_day() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let (one, other, third) = (world.worker(), world.worker(), world.worker());
    world.store.announce(offer(&world, &one, &["base"])).await?;
    world.store.announce(offer(&world, &other, &["base"])).await?;
    world.store.announce(offer(&world, &third, &["small"])).await?;
    // A worker with other models in the place of one of two that said the same; and in the place of the only one.
    world.store.withdraw(&one).await?;
    ensure!(models(&world).await? == [["base"], ["small"]], "{:?}", models(&world).await?);
    world.store.announce(offer(&world, &one, &["tiny"])).await?;
    world.store.withdraw(&third).await?;
    ensure!(models(&world).await? == [["base"], ["tiny"]], "{:?}", models(&world).await?);
    // A worker that says something else now.
    world.store.announce(offer(&world, &one, &["large-v3"])).await?;
    world.clock.advance(Duration::from_secs(24 * 3600 - 1));
    world.store.announce(offer(&world, &one, &["large-v3"])).await?;
    let after = models(&world).await?;
    ensure!(after == [["base"], ["large-v3"]], "within a day of the last worker: {after:?}");
    world.clock.advance(Duration::from_secs(1));
    world.store.announce(offer(&world, &one, &["large-v3"])).await?;
    ensure!(models(&world).await? == [["large-v3"]], "a day after: {:?}", models(&world).await?);
    let workers = world.store.offers().await?;
    ensure!(workers.len() == 1 && workers[0].worker == one, "{workers:?}");
    Ok(())
}

#[tokio::test]
async fn workers_of_the_version_before_and_of_this_one_are_told_to_both() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let key = format!("{{{}}}:offers", harness.prefix());
    let (older, newer) = (world.worker(), world.worker());
    let of_older = offer(&world, &older, &["base"]);
    let mut beside = harness.beside();
    let _: () = beside.hset(&key, older.ulid(), serde_json::to_string(&of_older)?)?;
    world.store.announce(offer(&world, &newer, &["small"])).await?;
    ensure!(models(&world).await? == [["base"], ["small"]], "what this version reads");
    ensure!(world.store.offers().await?.len() == 2, "the workers that it knows");
    // As the version before reads it.
    let all: Vec<String> = beside.hvals(&key)?;
    let read: Vec<EngineOffer> =
        all.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
    ensure!(read.len() == 2 && read.iter().any(|offer| offer.worker == newer), "{read:?}");
    // The older worker goes for good; somebody sees to what it left.
    world.clock.advance(Duration::from_secs(24 * 3600));
    world.store.announce(offer(&world, &newer, &["small"])).await?;
    ensure!(models(&world).await? == [["small"]], "it offers for ever");
    Ok(())
}

/// Announces as a node of the version before: in a field named after the worker, with the removal of records that are older than a
/// day or that this worker takes the place of.
fn announce_as_before(redis: &mut Connection, key: &str, new: &EngineOffer) -> Result<()> {
    let all: Vec<String> = redis.hvals(key)?;
    let _: () = redis.hset(key, new.worker.ulid(), serde_json::to_string(new)?)?;
    for text in all {
        let old: EngineOffer = serde_json::from_str(&text)?;
        let age = new.announced_at.since(old.announced_at);
        let same = (&old.version, &old.models) == (&new.version, &new.models);
        if old.worker != new.worker
            && (age > Duration::from_secs(86_400) || same && age > Duration::from_secs(300))
        {
            let _: () = redis.hdel(key, old.worker.ulid())?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_this_version_offered_goes_when_all_nodes_go_back() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let key = format!("{{{}}}:offers", harness.prefix());
    let mut beside = harness.beside();
    let (one, other, third, older) = (world.worker(), world.worker(), world.worker(), world.worker());
    for worker in [&one, &other, &third] {
        world.clock.advance(Duration::from_secs(1));
        world.store.announce(offer(&world, worker, &["small"])).await?;
    }
    // The worker whose name the record has says something else, then leaves.
    world.store.announce(offer(&world, &third, &["tiny"])).await?;
    world.store.withdraw(&other).await?;
    ensure!(models(&world).await? == [["small"], ["tiny"]], "{:?}", models(&world).await?);
    let workers: Vec<WorkerId> = world.store.offers().await?.into_iter().map(|offer| offer.worker).collect();
    ensure!(workers.len() == 2 && [&one, &third].iter().all(|id| workers.contains(*id)), "{workers:?}");
    // A record says when its worker spoke, so that an older node does not take it for one that lives.
    let small: Vec<EngineOffer> = world.store.distinct_offers().await?;
    let small = small.iter().find(|offer| offer.worker == one).map(|offer| offer.announced_at.as_millis());
    ensure!(small == Some(world.now().as_millis() - 2000), "{small:?}, and now it is {:?}", world.now());
    world.clock.advance(Duration::from_secs(86_401));
    announce_as_before(&mut beside, &key, &offer(&world, &older, &["base"]))?;
    ensure!(
        models(&world).await? == [["base"]],
        "what nobody has said for a day: {:?}",
        models(&world).await?
    );
    // A worker of this version comes again.
    world.store.announce(offer(&world, &one, &["small"])).await?;
    ensure!(models(&world).await? == [["base"], ["small"]], "{:?}", models(&world).await?);
    // Worker by worker: what a node of before says takes the place of the same from one that went.
    world.clock.advance(Duration::from_secs(301));
    announce_as_before(&mut beside, &key, &offer(&world, &older, &["small"]))?;
    ensure!(models(&world).await? == [["small"]], "{:?}", models(&world).await?);
    Ok(())
}

#[tokio::test]
async fn an_announcement_does_little_however_much_others_left_behind() -> Result<()> {
    const LEFT: usize = 2000;
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let key = |name: &str| format!("{{{}}}:{name}", harness.prefix());
    let mut beside = harness.beside();
    let mut digest = String::new();
    for number in 0..LEFT {
        let of_before = world.worker();
        let text = serde_json::to_string(&offer(&world, &of_before, &["old"]))?;
        let _: () = beside.hset(key("offers"), of_before.ulid(), text)?;
        let worker = world.worker();
        if number == 0 {
            world.store.announce(offer(&world, &worker, &["small"])).await?;
            digest = beside.hget(key("offers:of"), worker.ulid())?;
        } else {
            let at = world.now().as_millis();
            let _: () = beside.hset(key("offers:of"), worker.ulid(), &digest)?;
            let _: () = beside.zadd(key(&format!("offers:by:{digest}")), worker.ulid(), at)?;
        }
    }
    ensure!(world.store.offers().await?.len() == 2 * LEFT, "all are told");
    world.clock.advance(Duration::from_secs(86_401));
    let new = world.worker();
    let all = |redis: &mut Connection| -> Result<u64> {
        ["hget", "hdel", "zrem", "zscore"].iter().map(|command| calls(redis, command)).sum()
    };
    let mut most = 0;
    for _ in 0..LEFT / 20 {
        let before = all(&mut beside)?;
        world.store.announce(offer(&world, &new, &["base"])).await?;
        most = most.max(all(&mut beside)? - before);
    }
    println!("of {LEFT} records and as many workers an announcement asks for {most} at most");
    ensure!(most < 1000, "one announcement made {most} calls");
    ensure!(models(&world).await? == [["base"]], "{:?}", models(&world).await?);
    let (by, of): (usize, usize) =
        (beside.zcard(key(&format!("offers:by:{digest}")))?, beside.hlen(key("offers:of"))?);
    ensure!((by, of) == (0, 1), "{by} workers still say what nobody offers, {of} say something");
    Ok(())
}
