//! After a newer version, which wrote words that this one does not know.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use rusqlite::Connection;
use verbatim_core::event::{EventKind, EventSeq, Stage};
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::{JobId, SubmissionId};
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::JobClient;
use verbatim_core::ports::jobs::ListQuery;
use verbatim_core::transcript::Segment;
use verbatim_core::{ErrorKind, PortError, Refusal};
use verbatim_queue::conformance::World;

use crate::support::SqliteHarness;

/// Rewrites the options of a job. Returns what they were.
fn rewrite(harness: &SqliteHarness, job: &JobId, how: impl FnOnce(&str) -> String) -> Result<String> {
    let conn = Connection::open(harness.path().join("jobs.db"))?;
    let written: String =
        conn.query_row("SELECT options FROM jobs WHERE id = ?1", [job.as_str()], |row| row.get(0))?;
    let newer = how(&written);
    ensure!(newer != written, "nothing to rewrite in {written}");
    conn.execute("UPDATE jobs SET options = ?2 WHERE id = ?1", [job.as_str(), &newer])?;
    Ok(written)
}

/// Asks for the one submission that the list can show, page by page of one.
async fn listed(world: &World<'_, SqliteHarness>) -> Result<Vec<SubmissionId>> {
    let (mut found, mut before) = (Vec::new(), None);
    for _ in 0..4 {
        let query = ListQuery { before, limit: 1, ..ListQuery::default() };
        let page = world.store.list(&world.tenant(), query).await?;
        let last = page.submissions.last().map(|submission| submission.id.clone());
        found.extend(last.clone());
        before = page.next.or(last);
        if before.is_none() {
            return Ok(found);
        }
    }
    bail!("the pages never end")
}

/// The answer says that another version wrote it, and when to ask again.
fn is_left_to_others<T: Debug>(answer: Result<T, PortError>) -> Result<()> {
    let error = answer.err().context("it was answered")?;
    let told = (error.kind(), error.refusal(), error.retry_after().is_some());
    ensure!(told == (ErrorKind::Unavailable, Some(Refusal::OtherVersion), true), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_left_to_its_nodes() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let good = world.ticket("good").await?;
    let strange = world.submit("strange").await?.submission;
    let written = rewrite(&harness, &strange.job_id, |options| {
        options.replace("\"task\":\"transcribe\"", "\"task\":\"summarize\"")
    })?;
    let tenant = world.tenant();
    is_left_to_others(world.store.get(&tenant, &strange.id).await)?;
    is_left_to_others(world.store.events(&tenant, &strange.id, None).await.map(|found| found.is_some()))?;
    is_left_to_others(world.store.submit(world.upload("strange")).await)?;
    ensure!(listed(&world).await? == [good], "the list stops at what it cannot show");
    rewrite(&harness, &strange.job_id, |_| written.clone())?;
    world.expect(&strange.id, SubmissionStatus::Queued).await?;
    Ok(())
}

#[tokio::test]
async fn words_of_a_newer_version_are_shown_as_some_that_are_known() -> Result<()> {
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let (running, failed) =
        (world.submit("running").await?.submission, world.submit("failed").await?.submission);
    let _held = world.claim_one().await?;
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    let conn = Connection::open(harness.path().join("jobs.db"))?;
    conn.execute("UPDATE jobs SET stage = 'aligning' WHERE id = ?1", [running.job_id.as_str()])?;
    let newer = "{\"kind\":\"moon_phase\",\"message\":\"x\"}";
    conn.execute("UPDATE jobs SET failure = ?2 WHERE id = ?1", [failed.job_id.as_str(), newer])?;
    let seen = world.get(&running.id).await?;
    ensure!((seen.status, seen.stage) == (SubmissionStatus::Processing, Stage::Transcribing), "{seen:?}");
    let why = world.get(&failed.id).await?.failure.map(|failure| failure.kind);
    ensure!(why == Some(FailureKind::Internal), "it failed as {why:?}");
    Ok(())
}

/// A watcher does not stay before a page of them.
#[tokio::test]
async fn events_that_cannot_be_read_are_passed_over_however_many_there_are() -> Result<()> {
    const UNREADABLE: i64 = 600;
    let harness = SqliteHarness::new();
    let world = World::open(&harness).await?;
    let submission = world.submit("talk").await?.submission;
    let _held = world.claim_one().await?;
    let last = UNREADABLE + 100;
    let segment = Segment {
        index: 0,
        start_ms: 0,
        end_ms: 1000,
        text: "there".to_owned(),
        words: Vec::new(),
        speaker: None,
        decoding: None,
    };
    let readable = serde_json::to_string(&EventKind::Segment { attempt: 1, segment })?;
    let mut conn = Connection::open(harness.path().join("jobs.db"))?;
    let together = conn.transaction()?;
    for seq in 100..=last {
        let what = if seq == last { readable.as_str() } else { "{\"kind\":\"moon\"}" };
        together.execute(
            "INSERT INTO events (job_id, seq, at, kind, body) VALUES (?1, ?2, 0, 'segment', ?3)",
            rusqlite::params![submission.job_id.as_str(), seq, what],
        )?;
    }
    together.execute(
        "UPDATE jobs SET last_seq = ?2 WHERE id = ?1",
        rusqlite::params![submission.job_id.as_str(), last],
    )?;
    together.commit()?;
    let after = Some(EventSeq(99));
    let mut events = world.watch(&submission.id, after).await?;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = next.context("the watcher waits before what it cannot read")?.context("it ends")??;
        if let EventKind::Segment { segment, .. } = event.kind {
            ensure!(
                (i64::try_from(event.seq.0)?, segment.text.as_str()) == (last, "there"),
                "{:?} {segment:?}",
                event.seq
            );
            return Ok(());
        }
    }
}
