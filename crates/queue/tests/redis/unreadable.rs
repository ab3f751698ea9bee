//! Every script beside a record that cannot be read: it concerns nobody else, nothing is written by halves, and who asks
//! for it hears that it is broken, not to ask again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::{Commands, Connection};
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::{JobId, SubmissionId};
use verbatim_core::job::{JobState, Lease, Report, SubmissionStatus};
use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::ports::jobs::{BlobFate, DeadLetterQuery, Finish, ListQuery, Renewal};
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::{ErrorKind, PortError};
use verbatim_queue::conformance::World;

use crate::support::RedisHarness;

type OurWorld<'h> = World<'h, RedisHarness>;

const LEASE: Duration = Duration::from_secs(30);

/// A connection beside the store, with which records are spoilt.
struct Beside {
    redis: Connection,
    prefix: String,
}

impl Beside {
    fn of(harness: &RedisHarness) -> Self {
        Self { redis: harness.beside(), prefix: format!("{{{}}}:", harness.prefix()) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn field(&mut self, job: &JobId, field: &str) -> Result<Option<String>> {
        Ok(self.redis.hget(self.key(&format!("j:{}", job.ulid())), field)?)
    }

    /// Writes no number where one must be, or takes away what must be there. Returns what it was.
    fn spoil(&mut self, job: &JobId, field: &str) -> Result<Option<String>> {
        let before = self.field(job, field)?;
        let key = self.key(&format!("j:{}", job.ulid()));
        match field {
            "t" | "k" | "w" | "n" | "s" => () = self.redis.hdel(key, field)?,
            _ => () = self.redis.hset(key, field, "spoilt")?,
        }
        Ok(before)
    }

    fn put_back(&mut self, job: &JobId, field: &str, before: Option<String>) -> Result<()> {
        let key = self.key(&format!("j:{}", job.ulid()));
        match before {
            Some(value) => Ok(self.redis.hset(key, field, value)?),
            None => Ok(self.redis.hdel(key, field)?),
        }
    }

    /// All that is stored, but for keys that begin like this.
    fn all_but(&mut self, not: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut all = BTreeMap::new();
        let names: Vec<String> = redis::cmd("KEYS").arg(self.key("*")).query(&mut self.redis)?;
        for name in names {
            if !not.iter().any(|start| name.starts_with(&self.key(start))) {
                let dump: Vec<u8> = redis::cmd("DUMP").arg(&name).query(&mut self.redis)?;
                all.insert(name, dump);
            }
        }
        Ok(all)
    }
}

/// The answer says that the record is broken: no other node knows better, and asking again mends nothing.
fn is_told_as_broken<T: Debug>(answer: Result<T, PortError>, what: &str) -> Result<()> {
    let error = answer.err().with_context(|| format!("{what} was answered"))?;
    let told = (error.kind(), error.refusal(), error.retry_after());
    ensure!(told == (ErrorKind::Internal, None, None), "{what}: {error:?}");
    ensure!(error.to_string().contains("unreadable"), "{what}: {error}");
    Ok(())
}

/// Two jobs of one worker, of which the first was taken back because it was not renewed. With the claim that got it.
async fn one_taken_back(world: &OurWorld<'_>, name: &str) -> Result<(Lease, Lease, SubmissionId)> {
    let worker = world.worker();
    let id = world.ticket(&format!("{name} bad")).await?;
    let bad = world.store.claim(world.request(&worker, true)).await?.context("a job")?;
    world.ticket(&format!("{name} good")).await?;
    let good = world.store.claim(world.request(&worker, false)).await?.context("a job")?;
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        world.renew(&good.token).await?;
        world.store.tick().await?;
    }
    world.expect(&id, SubmissionStatus::Queued).await?;
    Ok((bad, good, id))
}

#[tokio::test]
async fn a_lease_that_cannot_be_given_back_stops_no_other_and_is_not_half_given() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    for field in ["a", "ls", "p", "o", "nl", "e", "l", "cc", "w", "k", "t", "C"] {
        let (bad, good, _) = one_taken_back(&world, field).await.with_context(|| field.to_owned())?;
        let job = bad.token.job_id.clone();
        let before = beside.spoil(&job, field)?;
        let renewed = [format!("j:{}", good.token.job_id.ulid())];
        let not = [renewed[0].as_str(), "run", "workers", "abilities", "k:", "tick"];
        let whole = beside.all_but(&not)?;
        let answers = world.store.renew(&[bad.token.clone(), good.token.clone()], LEASE).await?;
        ensure!(
            matches!(answers[..], [Renewal::Lost, Renewal::Held { .. }]),
            "{field}: {answers:?} beside one that cannot be read"
        );
        is_told_as_broken(world.store.report(&bad.token, Report::default()).await, "a report")?;
        is_told_as_broken(world.store.release(&bad.token).await, "a release")?;
        ensure!(beside.all_but(&not)? == whole, "{field}: something was half written");
        let revived: Option<u64> = beside.redis.hget(beside.key("tick"), "revived")?;
        ensure!(revived.is_none(), "{field}: it counts as revived");
        beside.put_back(&job, field, before)?;
        let again = world.renew(&bad.token).await?;
        ensure!(matches!(again, Renewal::Held { .. }), "{field}: {again:?} when it can be read");
        for lease in [bad, good] {
            ensure!(world.complete(&lease).await? == Finish::Done(JobState::Completed), "{field}");
        }
        world.store.tick().await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_repeated_claim_of_what_cannot_be_read_gets_nothing_and_the_worker_goes_on() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    for (field, held) in [("a", true), ("ls", true), ("f", true), ("a", false), ("p", false), ("ls", false)] {
        let worker = world.worker();
        world.ticket(&format!("{field} {held} good")).await?;
        let good = world.store.claim(world.request(&worker, true)).await?.context("a job")?;
        let id = world.ticket(&format!("{field} {held} bad")).await?;
        let request = world.request(&worker, false);
        let bad = world.store.claim(request.clone()).await?.context("a job")?;
        if !held {
            for _ in 0..40 {
                world.clock.advance(Duration::from_secs(1));
                world.renew(&good.token).await?;
                world.store.tick().await?;
            }
            world.expect(&id, SubmissionStatus::Queued).await?;
        }
        world.complete(&good).await?;
        let job = bad.token.job_id.clone();
        let before = beside.spoil(&job, field)?;
        let whole = beside.all_but(&["workers", "abilities"])?;
        let answer = world.store.claim(request.clone()).await;
        ensure!(matches!(answer, Ok(None)), "{field}, held {held}: {answer:?}");
        ensure!(beside.all_but(&["workers", "abilities"])? == whole, "{field}: something was half written");
        beside.put_back(&job, field, before)?;
        let again = world.store.claim(request).await?.context("it can be read again")?;
        world.complete(&again).await?;
        world.store.tick().await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_job_without_what_does_not_move_is_given_to_nobody() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    let bad = world.submit("bad").await?.submission;
    let good = world.submit("good").await?.submission;
    let key = beside.key(&format!("d:{}", bad.job_id.ulid()));
    let unmoving: String = beside.redis.get(&key)?;
    () = beside.redis.del(&key)?;
    let given = world.claim_one().await?;
    ensure!(given.token.job_id == good.job_id, "{given:?}");
    is_told_as_broken(world.store.get(&world.tenant(), &bad.id).await, "get")?;
    let listed: Vec<_> = world.list().await?.into_iter().map(|one| one.id).collect();
    ensure!(listed == [good.id], "{listed:?}");
    let mut unreadable = 0;
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(1));
        unreadable += world.store.tick().await?.unreadable;
    }
    ensure!(unreadable > 0, "upkeep does not say that it is spoilt");
    () = beside.redis.set(&key, unmoving)?;
    world.store.tick().await?;
    world.complete(&given).await?;
    let found = world.claim_one().await?;
    world.complete(&found).await?;
    world.expect(&bad.id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_submitted_again_is_done_beside_a_job_that_cannot_be_read() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    for field in ["nl", "p", "a", "ls", "o", "s", "t"] {
        let bad = world.submit(field).await?.submission;
        let before = beside.spoil(&bad.job_id, field)?;
        let again = world.store.submit(world.upload(field)).await.with_context(|| field.to_owned())?;
        let again = again.submission;
        ensure!(again.job_id != bad.job_id && !again.deduplicated, "{field}: it waits for the broken job");
        let given = world.claim_one().await.with_context(|| field.to_owned())?;
        ensure!(given.token.job_id == again.job_id, "{field}: {given:?}");
        world.complete(&given).await?;
        world.expect(&again.id, SubmissionStatus::Completed).await?;
        // Put right, the first one is done too.
        beside.put_back(&bad.job_id, field, before)?;
        world.clock.advance(Duration::from_secs(1));
        world.store.tick().await?;
        let late = world.claim_one().await.with_context(|| field.to_owned())?;
        world.complete(&late).await?;
        world.expect(&bad.id, SubmissionStatus::Completed).await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_finished_job_that_cannot_be_read_answers_nobody() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    for field in ["F", "X", "nl", "ls"] {
        let done = world.submit(field).await?.submission;
        world.work_off_one().await?;
        beside.spoil(&done.job_id, field)?;
        let again = world.store.submit(world.upload(field)).await.with_context(|| field.to_owned())?;
        ensure!(!again.submission.cached && again.submission.job_id != done.job_id, "{field}: {again:?}");
        world.work_off_one().await?;
        world.expect(&again.submission.id, SubmissionStatus::Completed).await?;
    }
    Ok(())
}

#[tokio::test]
async fn cancelling_and_redriving_what_cannot_be_read_writes_nothing() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    let tenant = world.tenant();
    for field in ["nl", "nt", "p", "ls", "t"] {
        let (waits, failed) = (format!("{field} waits"), format!("{field} failed"));
        let dead = world.submit(&failed).await?.submission;
        world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
        let bad = world.submit(&waits).await?.submission;
        let before = [beside.spoil(&bad.job_id, field)?, beside.spoil(&dead.job_id, field)?];
        let whole = beside.all_but(&[])?;
        is_told_as_broken(world.store.delete(&tenant, &bad.id).await, &format!("delete, {field}"))?;
        is_told_as_broken(world.store.cancel(&tenant, &bad.id).await, &format!("cancel, {field}"))?;
        is_told_as_broken(world.store.delete(&tenant, &dead.id).await, &format!("removal, {field}"))?;
        is_told_as_broken(world.store.redrive(&dead.job_id).await, &format!("redrive, {field}"))?;
        is_told_as_broken(world.store.discard_dead_letter(&dead.job_id).await, &format!("discard, {field}"))?;
        ensure!(beside.all_but(&[])? == whole, "{field}: something was half written");
        for (job, before) in [&bad.job_id, &dead.job_id].into_iter().zip(before) {
            beside.put_back(job, field, before)?;
        }
        world.store.cancel(&tenant, &bad.id).await?;
        ensure!(world.store.redrive(&dead.job_id).await?, "{field}: it is not redriven");
        world.work_off_one().await?;
        world.expect(&dead.id, SubmissionStatus::Completed).await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn lists_and_fates_are_answered_beside_what_cannot_be_read() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    let tenant = world.tenant();
    let mut good = Vec::new();
    for field in ["p", "o", "s", "all of it"] {
        let bad = world.submit(&format!("bad {field}")).await?.submission;
        let dead = world.submit(&format!("dead {field}")).await?.submission;
        world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
        world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
        good.push(dead);
        let queued = world.submit(&format!("queued {field}")).await?.submission;
        for job in [&bad.job_id, &queued.job_id] {
            match field {
                "all of it" => () = beside.redis.del(beside.key(&format!("j:{}", job.ulid())))?,
                _ => drop(beside.spoil(job, field)?),
            }
        }
        // The place of one that is queued is nobody's when it cannot be counted; the others say nothing of it.
        let got = world.store.get(&tenant, &queued.id).await;
        ensure!(got.is_ok() == (field == "o"), "{field}: {got:?}");
        if field != "o" {
            is_told_as_broken(got, field)?;
        }
        let listed = world.store.list(&tenant, ListQuery { limit: 200, ..ListQuery::default() }).await?;
        for one in &good {
            ensure!(
                listed.submissions.iter().any(|other| other.id == one.id),
                "{field}: a submission is missing"
            );
        }
        let letters = world.store.dead_letters(DeadLetterQuery { limit: 200, ..DeadLetterQuery::default() });
        let letters = letters.await.with_context(|| field.to_owned())?;
        for one in &good {
            ensure!(
                letters.letters.iter().any(|other| other.job_id == one.job_id),
                "{field}: a dead letter is missing"
            );
        }
        world.store.stats().await?;
    }
    let running = world.submit("running").await?.submission;
    let lease = world.claim_one().await?;
    ensure!(lease.token.job_id == running.job_id, "{lease:?}");
    let result = world.completion(&lease.token).result;
    for field in ["n", "f", "s"] {
        let before = beside.spoil(&lease.token.job_id, field)?;
        let keys = [result.clone(), BlobKey::for_upload(&good[0].job_id), lease.blob.clone()];
        let fates = world.store.fates(&keys).await.with_context(|| field.to_owned())?;
        ensure!(fates == [BlobFate::Needed; 3], "{field}: {fates:?}");
        beside.put_back(&lease.token.job_id, field, before)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_state_that_only_a_newer_version_knows_is_left_alone_and_told() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    let bad = world.submit("bad").await?.submission;
    let lease = world.claim_one().await?;
    let good = world.ticket("good").await?;
    let _held = world.claim_one().await?;
    let key = beside.key(&format!("j:{}", lease.token.job_id.ulid()));
    () = beside.redis.hset(&key, "s", "w")?;
    let before: BTreeMap<String, String> = beside.redis.hgetall(&key)?;
    let mut unreadable = 0;
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        unreadable += world.store.tick().await?.unreadable;
    }
    ensure!(unreadable > 0, "nobody hears of it");
    // Its greatest age is over, and its deadline.
    for index in ["z", "y", "delayed", "run"] {
        () = beside.redis.zadd(beside.key(index), lease.token.job_id.ulid(), 1)?;
    }
    world.store.tick().await?;
    ensure!(beside.redis.hgetall::<_, BTreeMap<String, String>>(&key)? == before, "it was touched");
    let counted: BTreeMap<String, String> = beside.redis.hgetall(beside.key("n"))?;
    ensure!(!counted.contains_key("w"), "{counted:?}");
    let audio = world.store.fates(std::slice::from_ref(&lease.blob)).await?;
    ensure!(audio == [BlobFate::Needed], "its audio is {audio:?}");
    world.expect(&good, SubmissionStatus::Queued).await?;
    // It is shown as being worked on.
    let shown = world.store.get(&world.tenant(), &bad.id).await?.context("it is shown")?;
    ensure!(shown.status == SubmissionStatus::Processing, "{shown:?}");
    Ok(())
}

#[tokio::test]
async fn a_job_without_a_state_is_told() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    for field in ["s", "t", "p", "K"] {
        let bad = world.submit(field).await?.submission;
        let mut taken = beside.spoil(&bad.job_id, if field == "K" { "t" } else { field })?;
        let key = beside.key(&format!("j:{}", bad.job_id.ulid()));
        let class: Option<String> = beside.redis.hget(&key, "K")?;
        if field == "K" {
            () = beside.redis.hdel(&key, "K")?;
        }
        ensure!(world.claim(&world.worker(), 1).await?.is_empty(), "{field}: it is given");
        world.clock.advance(Duration::from_secs(1));
        let told = world.store.tick().await.with_context(|| field.to_owned())?.unreadable;
        ensure!(told == 1, "{field}: told {told} times");
        beside.put_back(&bad.job_id, if field == "K" { "t" } else { field }, taken.take())?;
        beside.put_back(&bad.job_id, "K", class)?;
        world.clock.advance(Duration::from_secs(1));
        ensure!(world.store.tick().await?.unreadable == 0, "{field}: it is told again");
        world.work_off_one().await?;
        world.expect(&bad.id, SubmissionStatus::Completed).await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}
