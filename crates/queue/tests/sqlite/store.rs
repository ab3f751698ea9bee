//! What is particular to the SQLite store: the folder's lock, restarts, versions of the schema, wake-ups.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{SqliteHarness, audit};
use anyhow::{Context, Result};
use rusqlite::Connection;
use tokio::time::timeout;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::job::SubmissionStatus;
use verbatim_core::money::Money;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::ledger::{Charge, Day, EntryId};
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep, Ledger};
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};
use verbatim_queue::conformance::{SeededIds, Verdict, VirtualClock, World};
use verbatim_queue::{SqliteBooks, SqliteConfig, SqliteStore};

fn open(folder: &Path) -> Result<SqliteStore, PortError> {
    SqliteStore::open(SqliteConfig {
        folder: folder.to_owned(),
        policy: StorePolicy::default(),
        clock: Arc::new(VirtualClock::default()),
        ids: Arc::new(SeededIds::starting_at(1)),
    })
}

/// The process ends without a word and another one starts on its folder.
async fn restart<'a>(
    harness: &'a SqliteHarness,
    world: World<'a, SqliteHarness>,
) -> Verdict<World<'a, SqliteHarness>> {
    let World { store, policy, clock, ids, .. } = world;
    drop(store);
    World::resume(harness, policy, clock, ids).await
}

#[tokio::test]
async fn a_second_server_on_the_folder_is_refused_and_told_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = open(folder.path())?;
    let error = open(folder.path()).err().context("the second store opened")?;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let message = error.to_string();
    assert!(
        message.contains(&folder.path().display().to_string()) && message.contains("--data-dir"),
        "{message}"
    );
    first.ping().await?;
    drop(first);
    open(folder.path())?.ping().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    drop(open(folder.path())?);
    Connection::open(folder.path().join("jobs.db"))?.pragma_update(None, "user_version", 99)?;
    let error = open(folder.path()).err().context("a newer database was opened")?;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("newer version"), "{error}");
    Ok(())
}

#[tokio::test]
async fn leases_of_a_dead_process_are_taken_back_at_start() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let ticket = world.ticket("talk").await?;
    let old = world.claim_one().await?;

    let world = restart(&harness, world).await?;
    world.expect(&ticket, SubmissionStatus::Queued).await?;
    let lease = world.claim_one().await?;
    assert!(!lease.alone && lease.token.fence > old.token.fence, "{lease:?}");
    world.complete(&lease).await?;
    let world = restart(&harness, world).await?;
    world.expect(&ticket, SubmissionStatus::Completed).await?;
    audit(harness.path())
}

#[tokio::test]
async fn a_job_that_kills_the_process_every_time_is_given_up_and_its_neighbours_are_not() -> Result<()> {
    let harness = SqliteHarness::new();
    let mut world = World::open(&harness).await?;
    let poison = world.ticket("poison").await?;
    let innocents = [world.ticket("innocent").await?, world.ticket("other innocent").await?];
    let mut starts = 1;
    while starts < 10 {
        let leases = world.claim(&world.worker(), 3).await?;
        if leases.is_empty() {
            break;
        }
        if leases.iter().any(|lease| lease.audio.sha256 == "poison") {
            world = restart(&harness, world).await?;
            starts += 1;
            continue;
        }
        for lease in &leases {
            world.complete(lease).await?;
        }
    }
    // Twice in company, then three times alone.
    assert_eq!(starts, 6);
    world.expect(&poison, SubmissionStatus::Failed).await?;
    for innocent in &innocents {
        world.expect(innocent, SubmissionStatus::Completed).await?;
    }
    audit(harness.path())
}

#[tokio::test]
async fn a_worker_that_waits_is_woken_by_work() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    // The wake-up is kept for a worker that begins to wait only after the submission.
    world.ticket("talk").await?;
    timeout(Duration::from_secs(10), world.store.work_may_be_there()).await?;
    let waiting = timeout(Duration::from_secs(10), world.store.work_may_be_there());
    let (woken, submitted) = tokio::join!(waiting, world.ticket("other talk"));
    submitted?;
    woken?;
    Ok(())
}

#[tokio::test]
async fn the_books_are_read_beside_a_running_server() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clock = Arc::new(VirtualClock::default());
    assert_eq!(
        SqliteBooks::open(folder.path(), clock.clone()).err().map(|error| error.kind()),
        Some(ErrorKind::NotFound)
    );
    let server = SqliteStore::open(SqliteConfig {
        folder: folder.path().to_owned(),
        policy: StorePolicy::default(),
        clock: clock.clone(),
        ids: Arc::new(SeededIds::starting_at(1)),
    })?;
    let books = SqliteBooks::open(folder.path(), clock.clone())?;
    let job_id = JobId::generate(&SeededIds::starting_at(7));
    let charge = Charge {
        entry: EntryId { job_id: job_id.clone(), fence: Fence::new(1), provider: "azure".into() },
        tenant: TenantId::default(),
        billed_ms: 1_000,
        cost: Some(Money::from_micros(5)),
    };
    server.charge(charge.clone()).await?;
    assert_eq!(books.of_job(&job_id).await?, [charge]);
    let today = Day::of(clock.now());
    assert_eq!(books.totals(today, today).await?, server.totals(today, today).await?);
    assert_eq!(books.totals(today, today).await?.len(), 1);
    Ok(())
}

/// A row that cannot be read, as a disk that fails may leave one, is passed over.
#[tokio::test]
async fn a_row_that_cannot_be_read_stops_neither_claims_nor_upkeep() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    world.settle().await?;
    let (bad, good) = (world.ticket("held, bad").await?, world.claim_one().await?);
    let other = world.ticket("held, good").await?;
    world.claim_one().await?;
    let (first, second) = (world.upload("queued, bad"), world.upload("queued, good"));
    let (queued_bad, next) = (first.job_id.clone(), second.job_id.clone());
    world.store.submit(first).await?;
    world.store.submit(second).await?;
    let conn = Connection::open(harness.path().join("jobs.db"))?;
    let options: String = conn.query_row("SELECT options FROM jobs LIMIT 1", [], |row| row.get(0))?;
    let spoil = |options: &str| {
        let both = [good.token.job_id.as_str(), queued_bad.as_str()];
        conn.execute(
            "UPDATE jobs SET options = ?1 WHERE id IN (?2, ?3)",
            rusqlite::params![options, both[0], both[1]],
        )
    };
    spoil("{")?;
    let given = world.claim_one().await?;
    assert_eq!(given.token.job_id, next, "the one behind the one that cannot be read");
    world.complete(&given).await?;
    let mut unreadable = 0;
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        unreadable += world.store.tick().await?.unreadable;
    }
    assert_eq!(unreadable, 1, "what cannot be read is told once");
    world.expect(&other, SubmissionStatus::Queued).await?;
    spoil(&options)?;
    world.pass(Duration::from_secs(700)).await?;
    for _ in 0..3 {
        world.until_due().await?;
        world.work_off_one().await?;
    }
    world.expect(&bad, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}
