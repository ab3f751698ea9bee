//! What providers share, where it is SQLite's own: it is there after a restart, and old rows go.

use std::time::Duration;

use anyhow::{Result, ensure};
use rusqlite::Connection;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::ports::ledger::{Budgets, Charge, Day, EntryId, Reservation, Reserved};
use verbatim_core::ports::shared_state::Replacement;
use verbatim_core::ports::{Ledger, SharedState};
use verbatim_queue::conformance::World;

use crate::support::{SqliteHarness, audit};

const TTL: Duration = Duration::from_secs(600);

#[tokio::test]
async fn values_and_books_survive_a_restart_and_go_in_time() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let entry =
        EntryId { job_id: JobId::generate(&*world.ids), fence: Fence::new(1), provider: "azure".to_owned() };
    let budgets = Budgets { provider: Some(Money::from_micros(10)), tenant: None };
    let jobs = [(); 3].map(|()| EntryId { job_id: JobId::generate(&*world.ids), ..entry.clone() });
    let reserve = |job: usize, cost: u64| Reservation {
        entry: jobs[job].clone(),
        tenant: TenantId::default(),
        cost: Money::from_micros(cost),
        budgets,
        ttl: TTL,
    };
    let charge = Charge {
        entry: entry.clone(),
        tenant: TenantId::default(),
        billed_ms: 1000,
        cost: Some(Money::from_micros(4)),
    };
    ensure!(world.store.reserve(reserve(0, 3)).await? == Reserved::Granted, "there is room");
    world.store.charge(charge.clone()).await?;
    let value = |expected| Replacement { expected, value: "paused".to_owned(), ttl: TTL };
    ensure!(world.store.replace("health", value(None)).await?, "the value was refused");
    let before = world.store.read("health").await?.current;

    let World { store, policy, clock, ids, .. } = world;
    drop(store);
    let world = World::resume(&harness, policy, clock, ids).await?;
    ensure!(world.store.read("health").await?.current == before, "the value is lost or changed");
    ensure!(world.store.of_job(&entry.job_id).await? == [charge.clone()], "the charge is lost");
    ensure!(world.store.reserve(reserve(1, 4)).await? == Reserved::OverProviderBudget, "the books are lost");
    ensure!(world.store.reserve(reserve(1, 3)).await? == Reserved::Granted, "there is room for three");

    world.pass(Duration::from_secs(402 * 24 * 3600)).await?;
    // Lapsed reservations go with the next one.
    ensure!(world.store.reserve(reserve(2, 1)).await? == Reserved::Granted, "there is room on another day");
    world.store.cancel(&jobs[2]).await?;
    let conn = Connection::open(harness.path().join("jobs.db"))?;
    for table in ["shared_values", "ledger_charges", "ledger_days", "ledger_reservations"] {
        let rows: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        ensure!(rows == 0, "{rows} rows are left in {table}");
    }
    let today = Day::of(world.now());
    ensure!(world.store.totals(today.earlier(1000), today).await?.is_empty(), "old totals");
    audit(harness.path())
}
