//! Beside nodes of a newer version, which write words that this one does not know.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use redis::Commands;
use verbatim_core::event::{EventKind, EventSeq, Stage};
use verbatim_core::ids::{JobId, SubmissionId};
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::jobs::ListQuery;
use verbatim_core::ports::{JobClient, JobLeases};
use verbatim_core::transcript::Segment;
use verbatim_core::{ErrorKind, PortError, Refusal};
use verbatim_queue::conformance::World;

use crate::support::RedisHarness;

/// Rewrites what does not move of a job. Returns what it was.
fn rewrite(harness: &RedisHarness, job: &JobId, how: impl FnOnce(&str) -> String) -> Result<String> {
    let key = format!("{{{}}}:d:{}", harness.prefix(), job.ulid());
    let mut beside = harness.beside();
    let written: String = beside.get(&key)?;
    let newer = how(&written);
    ensure!(newer != written, "nothing to rewrite in {written}");
    let _: () = beside.set(&key, newer)?;
    Ok(written)
}

/// Asks for the one submission that the list can show, page by page of one.
async fn listed(world: &World<'_, RedisHarness>) -> Result<Vec<SubmissionId>> {
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
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let good = world.ticket("good").await?;
    let strange = world.submit("strange").await?.submission;
    let written = rewrite(&harness, &strange.job_id, |options| {
        options.replace("\"task\":\"transcribe\"", "\"task\":\"summarize\"")
    })?;
    let tenant = world.tenant();
    is_left_to_others(world.store.get(&tenant, &strange.id).await)?;
    // Its events say nothing that this version does not know.
    ensure!(world.store.events(&tenant, &strange.id, None).await?.is_some(), "it has no events");
    is_left_to_others(world.store.submit(world.upload("strange")).await)?;
    ensure!(listed(&world).await? == [good], "the list stops at what it cannot show");
    rewrite(&harness, &strange.job_id, |_| written.clone())?;
    world.expect(&strange.id, SubmissionStatus::Queued).await?;
    Ok(())
}

#[tokio::test]
async fn what_this_version_cannot_read_stops_neither_claims_nor_lists() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let (strange, good) = (world.submit("strange").await?.submission, world.ticket("good").await?);
    let key = format!("{{{}}}:d:{}", harness.prefix(), strange.job_id.ulid());
    let mut beside = harness.beside();
    let written: String = beside.get(&key)?;
    let newer = written.replace("\"task\":\"transcribe\"", "\"task\":\"summarize\"");
    ensure!(newer != written, "no task in {written}");
    let _: () = beside.set(&key, newer)?;
    let listed: Vec<_> = world.list().await?.into_iter().map(|submission| submission.id).collect();
    ensure!(listed == [good.clone()], "the list holds {listed:?}");
    let request = world.request(&world.worker(), true);
    let refused = world.store.claim(request.clone()).await.err().context("it was claimed")?;
    ensure!(refused.kind() == ErrorKind::Unavailable, "the claim ends with {refused:?}");
    ensure!(world.store.claim(request).await?.is_none(), "the same claim gets something");
    // It goes on with what it can read, and the other job is neither held nor blamed.
    world.work_off_one().await?;
    world.expect(&good, SubmissionStatus::Completed).await?;
    let job: std::collections::HashMap<String, String> =
        beside.hgetall(format!("{{{}}}:j:{}", harness.prefix(), strange.job_id.ulid()))?;
    ensure!(job["s"] == "d" && job["a"] == "0" && !job.contains_key("C"), "{job:?}");
    // A node that can read it gets it.
    let _: () = beside.set(&key, written)?;
    world.until_due().await?;
    world.work_off_one().await?;
    world.expect(&strange.id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_stage_of_a_newer_version_is_shown_as_one_that_is_known() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let submission = world.submit("talk").await?.submission;
    let lease = world.claim_one().await?;
    let key = format!("{{{}}}:j:{}", harness.prefix(), submission.job_id.ulid());
    let _: () = harness.beside().hset(&key, "st", "aligning")?;
    let seen = world.get(&submission.id).await?;
    ensure!((seen.status, seen.stage) == (SubmissionStatus::Processing, Stage::Transcribing), "{seen:?}");
    ensure!(world.list().await?.len() == 1, "the list leaves it out");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

/// A watcher does not stay before a page of them.
#[tokio::test]
async fn events_that_cannot_be_read_are_passed_over_however_many_there_are() -> Result<()> {
    const UNREADABLE: u64 = 600;
    let harness = RedisHarness::new();
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
    let (key, mut beside) = (
        |kind: &str| format!("{{{}}}:{kind}:{}", harness.prefix(), submission.job_id.ulid()),
        harness.beside(),
    );
    for seq in 100..=last {
        let what = if seq == last { readable.as_str() } else { "{\"kind\":\"moon\"}" };
        let _: () = beside.zadd(key("e"), format!("{seq}|0|{what}"), seq)?;
    }
    // Not even its number.
    let _: () = beside.zadd(key("e"), "?", last - 345)?;
    let _: () = beside.hset(key("j"), "ls", last)?;
    let after = Some(EventSeq(99));
    let mut events = world.watch(&submission.id, after).await?;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = next.context("the watcher waits before what it cannot read")?.context("it ends")??;
        if let EventKind::Segment { segment, .. } = event.kind {
            ensure!((event.seq.0, segment.text.as_str()) == (last, "there"), "{:?} {segment:?}", event.seq);
            return Ok(());
        }
    }
}
