//! Budgets and bookings.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::money::Money;
use verbatim_core::ports::engine::{EngineError, EngineRequest, SpeechEngine};
use verbatim_engines::pool::{Provider, ProviderPool};

use crate::support::service::{Allowance, Service, ServiceEngine};
use crate::support::{Notebook, World, local, remote};

fn service() -> Arc<Service> {
    Service::new(Allowance::generous(Duration::from_secs(1)))
}

async fn transcribe(pool: &ProviderPool, request: EngineRequest) -> Result<String, EngineError> {
    let done = pool.transcribe(request, Arc::new(Notebook::default()), CancellationToken::new()).await;
    done.map(|transcript| transcript.engine)
}

/// An hour costs 3.6, so a second costs a thousandth; `budget` is in seconds.
fn priced(service: &Arc<Service>, budget: Option<u64>) -> Provider {
    Provider {
        price_per_hour: Money::parse(3.6),
        daily_budget: budget.map(|secs| Money::from_micros(secs * 1000)),
        ..remote("paid", service)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_did_is_booked_with_its_price_or_without_one() -> Result<()> {
    let world = World::new();
    let (paid, free) = (service(), service());
    let pool = world.pool(vec![priced(&paid, None), local("here", &free)]);
    transcribe(&pool, world.request(10)).await?;
    paid.set_down(true);
    transcribe(&pool, world.request(5)).await?;
    let booked: Vec<_> = world
        .ledger
        .charges()
        .into_iter()
        .map(|charge| (charge.entry.provider, charge.billed_ms, charge.cost))
        .collect();
    let expected =
        [("paid".to_owned(), 10_000, Some(Money::from_micros(10_000))), ("here".to_owned(), 5_000, None)];
    assert_eq!(booked, expected, "and nothing for the call that failed");
    let text = world.metrics.render()?;
    assert!(text.contains("verbatim_provider_billed_seconds_total{provider=\"paid\"} 10"), "{text}");
    assert!(text.contains("verbatim_provider_cost_total{provider=\"paid\"} 0.01"), "{text}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_sends_jobs_elsewhere_and_is_there_again_the_next_day() -> Result<()> {
    let world = World::new();
    let (paid, free) = (service(), service());
    let pool = world.pool(vec![priced(&paid, Some(25)), local("here", &free)]);
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(transcribe(&pool, world.request(10)).await?);
    }
    assert_eq!(engines, ["azure", "azure", "whisper", "whisper"], "a job begins only when all of it fits");
    assert_eq!(transcribe(&pool, world.request(4)).await?, "azure", "a shorter one still fits");
    pool.announce().await;
    assert!(world.metrics.render()?.contains("verbatim_provider_budget_used_ratio{provider=\"paid\"} 0.96"));
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(transcribe(&pool, world.request(10)).await?, "azure");
    assert_eq!(world.ledger.reserved(), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn when_only_money_is_missing_the_job_asks_again_later() -> Result<()> {
    let world = World::new();
    let paid = service();
    let pool = world.pool(vec![priced(&paid, Some(5))]);
    let error = transcribe(&pool, world.request(10)).await.expect_err("there is no money");
    assert_eq!(error.kind, FailureKind::EngineUnavailable);
    // Midnight is two hours away; what others have put aside may be given back before.
    assert_eq!(error.retry_after, Some(Duration::from_secs(600)));
    assert!(paid.served().is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_tenant_cannot_spend_more_than_its_own_budget() -> Result<()> {
    let mut world = World::new();
    world.config.tenant_daily_budget = Some(Money::from_micros(15_000));
    let (paid, free) = (service(), service());
    let pool = world.pool(vec![priced(&paid, None), local("here", &free)]);
    assert_eq!(transcribe(&pool, world.request(10)).await?, "azure");
    assert_eq!(transcribe(&pool, world.request(10)).await?, "whisper");
    let mut other = world.request(10);
    other.job.as_mut().expect("a job").tenant = verbatim_core::ids::TenantId::parse("other")?;
    assert_eq!(transcribe(&pool, other).await?, "azure");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_put_aside_for_a_call_that_failed_is_given_back() -> Result<()> {
    let world = World::new();
    let paid = service();
    let pool = Arc::new(world.pool(vec![priced(&paid, Some(15))]));
    paid.fail_with(&[FailureKind::EngineFailed]);
    assert!(transcribe(&pool, world.request(10)).await.is_err());
    let dropped = {
        let (pool, request) = (Arc::clone(&pool), world.request(10));
        tokio::spawn(async move { transcribe(&pool, request).await })
    };
    while paid.under_way() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.ledger.reserved(), 1);
    dropped.abort();
    assert!(dropped.await.is_err());
    pool.settled().await;
    assert_eq!(world.ledger.reserved(), 0);
    assert_eq!(transcribe(&pool, world.request(10)).await?, "azure");
    Ok(())
}

/// A paid provider whose engine makes four requests for each job.
fn in_quarters(service: &Arc<Service>, in_pieces: bool) -> Provider {
    let engine = ServiceEngine { requests: 4, in_pieces, ..ServiceEngine::new("azure", Arc::clone(service)) };
    Provider { engine: Arc::new(engine), ..priced(service, Some(100)) }
}

/// Ends when the service has answered so often.
async fn answered(service: &Arc<Service>, times: usize) {
    while service.served().len() < times {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What is in the books when a paid provider does half of ten seconds, in pieces that are kept or not, and then fails so; and who
/// did the job.
async fn books_after(failures: &[FailureKind], in_pieces: bool) -> Result<(String, Vec<(String, u64)>)> {
    let world = World::new();
    let (paid, free) = (service(), service());
    let pool = world.pool(vec![in_quarters(&paid, in_pieces), local("here", &free)]);
    let failing = async {
        answered(&paid, 2).await;
        paid.fail_with(failures);
    };
    let (done, ()) = tokio::join!(transcribe(&pool, world.request(10)), failing);
    assert_eq!(world.ledger.reserved(), 0);
    let charges = world.ledger.charges().into_iter();
    Ok((done?, charges.map(|charge| (charge.entry.provider, charge.billed_ms)).collect()))
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_did_before_it_failed_is_booked() -> Result<()> {
    let (by, books) = books_after(&[FailureKind::EngineFailed], false).await?;
    assert_eq!(by, "whisper");
    assert_eq!(books, [("paid".to_owned(), 5_000), ("here".to_owned(), 10_000)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_asked_twice_is_booked_once_for_all_that_it_did() -> Result<()> {
    // It is asked again because it has begun, and does everything again.
    let (by, books) = books_after(&[FailureKind::Throttled], true).await?;
    assert_eq!((by.as_str(), books), ("azure", vec![("paid".to_owned(), 15_000)]));
    let (by, books) = books_after(&[FailureKind::Throttled, FailureKind::EngineFailed], true).await?;
    assert_eq!(by, "whisper");
    assert_eq!(books, [("paid".to_owned(), 5_000), ("here".to_owned(), 10_000)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_did_not_live_to_book_is_booked_by_the_next_one() -> Result<()> {
    let world = World::new();
    let paid = service();
    let dies = world.pool(vec![in_quarters(&paid, true)]);
    let notebook = Arc::new(Notebook::default());
    let request = world.request(10);
    let working = dies.transcribe(request.clone(), Arc::clone(&notebook) as _, CancellationToken::new());
    tokio::select! {
        _ = working => anyhow::bail!("it is done"),
        () = answered(&paid, 3) => {}
    }
    drop(dies);
    assert!(world.ledger.charges().is_empty());
    let mut resumed = EngineRequest { resume: notebook.last_checkpoint(), ..request };
    resumed.job.as_mut().expect("a job").fence = verbatim_core::ids::Fence::new(2);
    let pool = world.pool(vec![in_quarters(&paid, true)]);
    transcribe(&pool, resumed).await?;
    pool.settled().await;
    let mut booked: Vec<_> = world
        .ledger
        .charges()
        .into_iter()
        .map(|charge| (charge.entry.fence.get(), charge.billed_ms, charge.cost))
        .collect();
    booked.sort_unstable();
    let cost = |micros| Some(Money::from_micros(micros));
    assert_eq!(booked, [(1, 7_500, cost(7_500)), (2, 10_000, cost(10_000))]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_tenants_have_left_shows_before_it_is_gone() -> Result<()> {
    let mut world = World::new();
    world.config.tenant_daily_budget = Some(Money::from_micros(20_000));
    let paid = service();
    let pool = world.pool(vec![priced(&paid, None)]);
    let mut acme = world.request(4);
    acme.job.as_mut().expect("a job").tenant = verbatim_core::ids::TenantId::parse("acme")?;
    for request in [world.request(10), world.request(7), acme] {
        transcribe(&pool, request).await?;
    }
    pool.announce().await;
    let text = world.metrics.render()?;
    assert!(text.contains("verbatim_tenant_budget_used_ratio 0.85"), "{text}");
    assert!(!text.contains("acme"), "nobody is named: {text}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn without_the_ledger_work_goes_on_where_there_is_no_budget() -> Result<()> {
    let world = World::new();
    let (paid, free) = (service(), service());
    let bounded = world.pool(vec![priced(&paid, Some(1000)), local("here", &free)]);
    let unbounded = world.pool(vec![priced(&paid, None)]);
    world.ledger.down.store(true, Ordering::Relaxed);
    assert_eq!(transcribe(&bounded, world.request(1)).await?, "whisper", "a budget is a promise");
    assert_eq!(transcribe(&unbounded, world.request(1)).await?, "azure");
    world.ledger.down.store(false, Ordering::Relaxed);
    bounded.settled().await;
    unbounded.settled().await;
    let mut booked: Vec<_> = world.ledger.charges().into_iter().map(|charge| charge.entry.provider).collect();
    booked.sort();
    assert_eq!(booked, ["here", "paid"], "what was done meanwhile is booked when it is back");
    Ok(())
}
