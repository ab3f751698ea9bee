//! What a checkpoint costs on disk, and one of a version that kept it in one piece.

use std::path::Path;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};
use verbatim_core::job::Report;
use verbatim_core::ports::JobLeases;
use verbatim_queue::conformance::World;
use verbatim_queue::conformance::checkpoints::checkpoint;

use crate::support::SqliteHarness;

/// Segments that are new with each checkpoint.
const STEP: u32 = 5;

/// Bytes in the write-ahead log.
fn log(folder: &Path) -> Result<u64> {
    Ok(std::fs::metadata(folder.join("jobs.db-wal"))?.len())
}

#[tokio::test]
async fn the_hundredth_checkpoint_costs_what_the_tenth_does() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    world.ticket("long talk").await?;
    let lease = world.claim_one().await?;
    let beside = Connection::open(harness.path().join("jobs.db"))?;
    let (mut early, mut late) = (0, 0);
    for number in 0..=105 {
        beside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        ensure!(log(harness.path())? == 0, "the log begins anew");
        let report = Report { checkpoint: Some(checkpoint("word", number * STEP)), ..Report::default() };
        ensure!(world.store.report(&lease.token, report).await?, "the report was refused");
        match number {
            6..=15 => early += log(harness.path())?,
            96..=105 => late += log(harness.path())?,
            _ => {}
        }
    }
    println!("bytes written for ten checkpoints: {early} around the 10th, {late} around the 100th");
    ensure!(early > 0 && late < early * 3 / 2, "{early} bytes around the 10th, {late} around the 100th");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_of_a_version_that_kept_it_in_one_piece_is_gone_on_from() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let job = world.submit("talk").await?.submission.job_id;
    let old = checkpoint("word", 7);
    Connection::open(harness.path().join("jobs.db"))?.execute(
        "INSERT INTO checkpoints (job_id, body) VALUES (?1, ?2)",
        params![job.as_str(), serde_json::to_string(&old)?],
    )?;
    let lease = world.claim_one().await?;
    ensure!(lease.checkpoint == Some(old), "{lease:?}");
    let new = checkpoint("word", 9);
    let report = Report { checkpoint: Some(new.clone()), ..Report::default() };
    ensure!(world.store.report(&lease.token, report).await?, "the report was refused");
    world.die().await?;
    let lease = world.claim_one().await?;
    ensure!(lease.checkpoint == Some(new), "{lease:?}");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}
