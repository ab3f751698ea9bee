//! What providers share, where it is Redis's own: what a full server still takes, and what goes by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::Commands;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::ledger::{Budgets, Charge, EntryId, Reservation, Reserved};
use verbatim_core::ports::limiter::RequestLimits;
use verbatim_core::ports::shared_state::Replacement;
use verbatim_core::ports::{Ledger, Limiter, SharedState};
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::{SeededIds, World};

use crate::server::RedisServer;
use crate::support::{RedisHarness, calls};

const TTL: Duration = Duration::from_secs(600);

fn entry(ids: &SeededIds) -> EntryId {
    EntryId { job_id: JobId::generate(ids), fence: Fence::new(1), provider: "azure".to_owned() }
}

fn charge(entry: EntryId) -> Charge {
    Charge { entry, tenant: TenantId::default(), billed_ms: 1000, cost: Some(Money::from_micros(7)) }
}

#[tokio::test]
async fn a_full_redis_keeps_the_books_of_jobs_that_are_held_already() -> Result<()> {
    let server = RedisServer::start(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let reserve = |entry: &EntryId| {
        world.store.reserve(Reservation {
            entry: entry.clone(),
            tenant: TenantId::default(),
            cost: Money::from_micros(7),
            budgets: Budgets::default(),
            ttl: TTL,
        })
    };
    let mut beside = harness.beside();
    let fill = |number: u32, beside: &mut redis::Connection| {
        redis::cmd("SET").arg(format!("ballast:{number}")).arg("x".repeat(10_000)).exec(beside)
    };
    let full = (0..10_000).any(|number| fill(number, &mut beside).is_err());
    ensure!(full, "4 MB hold 100 MB");

    // Without a place at its provider, and money for it, a job that is held could not be done, and nothing would get free.
    let replacement = Replacement { expected: None, value: "a place".to_owned(), ttl: TTL };
    ensure!(world.store.replace("provider", replacement).await?, "the value was refused");
    let (first, second) = (entry(&world.ids), entry(&world.ids));
    for entry in [&first, &second] {
        ensure!(reserve(entry).await? == Reserved::Granted, "there is no budget");
    }
    world.store.charge(charge(first.clone())).await?;
    world.store.cancel(&second).await?;
    ensure!(world.store.of_job(&first.job_id).await? == [charge(first)], "the charge is lost");
    let limits = RequestLimits { tenant_per_minute: Some(5), project: None };
    let admission = world.store.admit(&TenantId::default(), &limits).await?.context("a limit")?;
    ensure!(admission.allowed && admission.remaining == 4, "{admission:?}");
    Ok(())
}

#[tokio::test]
async fn an_expired_credential_goes_from_redis_by_itself() -> Result<()> {
    let harness = RedisHarness::new();
    let ids = Arc::new(SeededIds::starting_at(1));
    let store = RedisStore::connect(harness.config(StorePolicy::default(), ids)).await?;
    let replacement = Replacement { expected: None, value: "a token".to_owned(), ttl: TTL };
    ensure!(store.replace("token", replacement).await?, "the value was refused");
    let left: i64 = harness.beside().pttl(format!("{{{}}}:value:token", harness.prefix()))?;
    ensure!((1..=600_000).contains(&left), "Redis keeps it for {left} ms");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_forgot_its_last_second_gives_no_version_twice() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let write = |expected| Replacement { expected, value: "v".to_owned(), ttl: TTL };
    ensure!(world.store.replace("health", write(None)).await?, "the value was refused");
    let version = world.store.read("health").await?.current.context("a value")?.version;
    // As after a failover to a replica that had not heard of it.
    let prefix = format!("{{{}}}:", harness.prefix());
    let _: () = harness.beside().del(&[format!("{prefix}value:health"), format!("{prefix}values:last")])?;
    world.clock.advance(Duration::from_millis(1));
    ensure!(world.store.replace("health", write(None)).await?, "the value was refused");
    let again = world.store.read("health").await?.current.context("a value")?.version;
    ensure!(again > version, "version {again} after {version}");
    Ok(())
}

#[tokio::test]
async fn upkeep_leaves_nothing_behind_of_what_providers_share() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    world.store.charge(charge(entry(&world.ids))).await?;
    let value = Replacement { expected: None, value: "v".to_owned(), ttl: TTL };
    world.store.replace("health", value).await?;
    let limits = RequestLimits { tenant_per_minute: Some(5), project: None };
    world.store.admit(&TenantId::default(), &limits).await?;
    world.pass(Duration::from_secs(402 * 24 * 3600)).await?;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{{{}}}:*", harness.prefix())).query(&mut harness.beside())?;
    let kept = [":layout", ":store", ":values:last", ":tick"];
    let left: Vec<_> = keys.iter().filter(|key| !kept.iter().any(|end| key.ends_with(end))).collect();
    ensure!(left.is_empty(), "it leaves {left:?}");
    Ok(())
}

#[tokio::test]
async fn charges_of_single_jobs_are_kept_as_long_as_they_may_come_again() -> Result<()> {
    const A_DAY: usize = 1000;
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    let mut at_most = 0;
    for _ in 0..12 {
        for _ in 0..A_DAY {
            world.store.charge(charge(entry(&world.ids))).await?;
        }
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{{{}}}:charged:*", harness.prefix())).query(&mut beside)?;
        let (mut bytes, mut charges) = (0, 0);
        for key in &keys {
            let (of_day, kept): (u64, usize) = (
                redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).query(&mut beside)?,
                beside.hlen(key)?,
            );
            (bytes, charges) = (bytes + of_day, charges + kept);
        }
        println!("{charges} charges of single jobs are kept, each in {} bytes", bytes / charges as u64);
        at_most = at_most.max(charges);
        world.clock.advance(Duration::from_secs(24 * 3600));
    }
    ensure!(at_most == 4 * A_DAY, "{at_most} charges are kept, of {A_DAY} a day");
    // A reservation looks at those days only.
    let reserve = |entry: EntryId| Reservation {
        entry,
        tenant: TenantId::default(),
        cost: Money::from_micros(7),
        budgets: Budgets::default(),
        ttl: TTL,
    };
    let before = calls(&mut beside, "hget")?;
    world.store.reserve(reserve(entry(&world.ids))).await?;
    let asked = calls(&mut beside, "hget")? - before;
    ensure!(asked <= 12, "a reservation reads {asked} fields");
    Ok(())
}
