//! Every operation beside a row that cannot be read: it concerns nobody else, and who asks for it hears that it is broken.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::JobId;
use verbatim_core::job::{JobState, Report, SubmissionStatus};
use verbatim_core::ports::jobs::{DeadLetterQuery, Finish, ListQuery, Renewal};
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::{ErrorKind, PortError};
use verbatim_queue::conformance::World;

use crate::support::SqliteHarness;

const LEASE: Duration = Duration::from_secs(30);

/// Ways in which a row is unreadable: a column, and what it holds then.
const WAYS: [(&str, &str); 4] =
    [("options", "'x'"), ("attempt", "-1"), ("audio", "'{'"), ("past_finish", "'['")];

struct Spoilt {
    conn: Connection,
    job: JobId,
    column: &'static str,
    before: rusqlite::types::Value,
}

impl Spoilt {
    fn put_back(self) -> Result<()> {
        let sql = format!("UPDATE jobs SET {} = ?2 WHERE id = ?1", self.column);
        self.conn.execute(&sql, rusqlite::params![self.job.as_str(), self.before])?;
        Ok(())
    }
}

fn beside(harness: &SqliteHarness) -> Result<Connection> {
    Ok(Connection::open(harness.path().join("jobs.db"))?)
}

fn spoil(harness: &SqliteHarness, job: &JobId, (column, value): (&'static str, &str)) -> Result<Spoilt> {
    let conn = beside(harness)?;
    let read = format!("SELECT {column} FROM jobs WHERE id = ?1");
    let before = conn.query_row(&read, [job.as_str()], |row| row.get(0))?;
    conn.execute("PRAGMA ignore_check_constraints = 1", [])?;
    conn.execute(&format!("UPDATE jobs SET {column} = {value} WHERE id = ?1"), [job.as_str()])?;
    Ok(Spoilt { conn, job: job.clone(), column, before })
}

/// The answer says that the record is broken: no other version knows better, and asking again mends nothing.
fn is_told_as_broken<T: Debug>(answer: Result<T, PortError>, what: &str) -> Result<()> {
    let error = answer.err().with_context(|| format!("{what} was answered"))?;
    let told = (error.kind(), error.refusal(), error.retry_after());
    ensure!(told == (ErrorKind::Internal, None, None), "{what}: {error:?}");
    Ok(())
}

#[tokio::test]
async fn a_running_row_that_cannot_be_read_stops_no_renewal_and_its_finish_ends() -> Result<()> {
    for way in WAYS {
        let harness = SqliteHarness::new();
        let world = World::open(&harness).await?;
        world.settle().await?;
        let worker = world.worker();
        world.ticket("good").await?;
        let good = world.store.claim(world.request(&worker, true)).await?.context("a job")?;
        world.ticket("bad").await?;
        let request = world.request(&worker, false);
        let bad = world.store.claim(request.clone()).await?.context("a job")?;
        let spoilt = spoil(&harness, &bad.token.job_id, way)?;
        let answers = world.store.renew(&[bad.token.clone(), good.token.clone()], LEASE).await;
        let answers = answers.with_context(|| format!("{way:?}"))?;
        ensure!(matches!(answers[..], [Renewal::Lost, Renewal::Held { .. }]), "{way:?}: {answers:?}");
        let completion = world.completion(&bad.token);
        is_told_as_broken(world.store.complete(&bad.token, completion).await, "complete")?;
        is_told_as_broken(world.store.release(&bad.token).await, "release")?;
        is_told_as_broken(world.store.report(&bad.token, Report::default()).await, "report")?;
        let again = world.store.claim(request.clone()).await;
        ensure!(matches!(again, Ok(None)), "{way:?}: a repeated claim hears {again:?}");
        let other = world.store.claim(world.request(&worker, false)).await?;
        ensure!(other.is_none(), "{way:?}: {other:?}");
        spoilt.put_back()?;
        ensure!(world.store.claim(request).await?.is_some(), "{way:?}: it is held still");
        for lease in [bad, good] {
            ensure!(world.complete(&lease).await? == Finish::Done(JobState::Completed), "{way:?}");
        }
        world.audit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_keeps_its_job_from_nobody() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let bad = world.submit("bad").await?.submission;
    beside(&harness)?.execute(
        "INSERT INTO checkpoints (job_id, body) VALUES (?1, '{\"of\":\"a newer version\"}')",
        [bad.job_id.as_str()],
    )?;
    let lease = world.claim_one().await?;
    ensure!(lease.token.job_id == bad.job_id && lease.checkpoint.is_none(), "{lease:?}");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_process_starts_with_a_running_row_that_cannot_be_read() -> Result<()> {
    for way in WAYS {
        let harness = SqliteHarness::new();
        let world = World::open(&harness).await?;
        let (bad, good) = (world.ticket("bad").await?, world.ticket("good").await?);
        let held = world.claim(&world.worker(), 2).await?;
        ensure!(held.len() == 2 && held[0].audio.sha256 == "bad", "{held:?}");
        let spoilt = spoil(&harness, &held[0].token.job_id, way)?;
        let (clock, ids, policy) = (world.clock.clone(), world.ids.clone(), world.policy);
        drop(world);
        let world = World::resume(&harness, policy, clock, ids).await.with_context(|| format!("{way:?}"))?;
        world.expect(&good, SubmissionStatus::Queued).await?;
        world.settle().await?;
        spoilt.put_back()?;
        world.pass(Duration::from_secs(700)).await?;
        for _ in 0..2 {
            world.until_due().await?;
            world.work_off_one().await?;
        }
        world.expect(&bad, SubmissionStatus::Completed).await?;
        world.audit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_submitted_again_is_done_beside_a_row_that_cannot_be_read() -> Result<()> {
    for way in WAYS {
        for ended in [false, true] {
            let harness = SqliteHarness::new();
            let world = World::open(&harness).await?;
            let bad = world.submit("talk").await?.submission;
            if ended {
                world.work_off_one().await?;
            }
            let spoilt = spoil(&harness, &bad.job_id, way)?;
            is_told_as_broken(world.store.get(&world.tenant(), &bad.id).await, "get")?;
            is_told_as_broken(world.store.delete(&world.tenant(), &bad.id).await, "delete")?;
            let again = world.store.submit(world.upload("talk")).await.with_context(|| format!("{way:?}"))?;
            let again = again.submission;
            ensure!(again.job_id != bad.job_id && !again.deduplicated && !again.cached, "{way:?}: {again:?}");
            let given = world.claim_one().await?;
            ensure!(given.token.job_id == again.job_id, "{given:?}");
            world.complete(&given).await?;
            spoilt.put_back()?;
            if !ended {
                world.pass(Duration::from_secs(700)).await?;
                world.work_off_one().await?;
            }
            world.expect(&bad.id, SubmissionStatus::Completed).await?;
            world.audit().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn lists_leave_out_rows_that_cannot_be_read_and_no_error_of_the_disk() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let good = world.submit("good").await?.submission;
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    for way in WAYS {
        let bad = world.submit(way.0).await?.submission;
        world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
        let _spoilt = spoil(&harness, &bad.job_id, way)?;
    }
    let queued = world.ticket("queued").await?;
    let query = || ListQuery { limit: 200, ..ListQuery::default() };
    let dead = || DeadLetterQuery { limit: 200, ..DeadLetterQuery::default() };
    let listed: Vec<_> = world.list().await?.into_iter().map(|one| one.id).collect();
    ensure!(listed == [queued, good.id], "{listed:?}");
    let letters = world.store.dead_letters(dead()).await?;
    ensure!(letters.letters.iter().map(|letter| &letter.job_id).eq([&good.job_id]), "{letters:?}");
    // A table that is not there stands for pages of the disk that cannot be read.
    let conn = beside(&harness)?;
    conn.execute_batch("PRAGMA legacy_alter_table = 1; ALTER TABLE counts RENAME TO lost")?;
    let listed = world.store.list(&world.tenant(), query()).await;
    ensure!(listed.is_err(), "what the disk does not give is left out: {listed:?}");
    conn.execute_batch("ALTER TABLE lost RENAME TO counts; ALTER TABLE submissions RENAME TO lost")?;
    let letters = world.store.dead_letters(dead()).await;
    ensure!(letters.is_err(), "what the disk does not give is left out: {letters:?}");
    Ok(())
}

#[tokio::test]
async fn the_fate_of_a_blob_beside_rows_that_cannot_be_read_is_told() -> Result<()> {
    use verbatim_core::ports::jobs::BlobFate;
    for way in WAYS {
        let harness = SqliteHarness::new();
        let world = World::open(&harness).await?;
        world.ticket("bad").await?;
        let lease = world.claim_one().await?;
        let _spoilt = spoil(&harness, &lease.token.job_id, way)?;
        let keys = [world.completion(&lease.token).result, lease.blob.clone()];
        let fates = world.store.fates(&keys).await.with_context(|| format!("{way:?}"))?;
        ensure!(fates == [BlobFate::Needed; 2], "{way:?}: {fates:?}");
    }
    Ok(())
}
