//! A record that cannot be read: it stays as it is, and what is done beside it is done whole.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use redis::{Commands, Connection};
use verbatim_core::PortError;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{JobState, Lease, SubmissionStatus};
use verbatim_core::ports::jobs::Finish;
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};
use verbatim_queue::conformance::World;

use crate::support::RedisHarness;

type OurWorld<'h> = World<'h, RedisHarness>;

/// No number.
const SPOILT: &str = "spoilt";

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

    fn job(&mut self, lease: &Lease) -> Result<HashMap<String, String>> {
        let key = self.key(&format!("j:{}", lease.token.job_id.ulid()));
        Ok(self.redis.hgetall(key)?)
    }

    fn set(&mut self, lease: &Lease, field: &str, value: &str) -> Result<()> {
        let key = self.key(&format!("j:{}", lease.token.job_id.ulid()));
        Ok(self.redis.hset(key, field, value)?)
    }
}

/// The ways in which a lease ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Complete,
    Fail,
    Refund,
    Release,
}

async fn end(world: &OurWorld<'_>, ending: Ending, lease: &Lease) -> Result<Finish, PortError> {
    let failed = |kind| world.store.fail(&lease.token, JobFailure::new(kind, "it failed"));
    match ending {
        Ending::Complete => world.store.complete(&lease.token, world.completion(&lease.token)).await,
        Ending::Fail => failed(FailureKind::EngineFailed).await,
        Ending::Refund => failed(FailureKind::Throttled).await,
        Ending::Release => world.store.release(&lease.token).await,
    }
}

#[tokio::test]
async fn a_finish_beside_one_that_cannot_be_done_is_done_whole() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    let (mut refused, mut number) = (0, 0);
    let fields = ["a", "cc", "ct", "f", "ls", "nl", "o", "p", "C", "G", "l", "ns", "k", "t", "w"];
    for ending in [Ending::Complete, Ending::Fail, Ending::Refund, Ending::Release] {
        for field in fields {
            let mut leases = Vec::new();
            for _ in 0..7 {
                number += 1;
                world.ticket(&format!("talk {number}")).await?;
                leases.push(world.claim_one().await?);
            }
            let bad = &leases[3];
            let mut good_field = beside.job(bad)?.get(field).cloned();
            if ["k", "t", "w"].contains(&field) {
                let key = beside.key(&format!("j:{}", bad.token.job_id.ulid()));
                () = beside.redis.hdel(key, field)?;
            } else {
                beside.set(bad, field, SPOILT)?;
            }
            let before = beside.job(bad)?;
            let ends = join_all(leases.iter().map(|lease| end(&world, ending, lease))).await;
            for (at, done) in ends.iter().enumerate().filter(|(at, _)| *at != 3) {
                ensure!(
                    matches!(done, Ok(Finish::Done(_))),
                    "{ending:?} {at} beside a spoilt `{field}`: {done:?}"
                );
            }
            if field == "f" {
                // What is no fence is nobody's lease.
                ensure!(!matches!(ends[3], Ok(Finish::Done(_))), "{:?}", ends[3]);
            }
            if !matches!(ends[3], Ok(Finish::Done(_))) {
                refused += 1;
                ensure!(
                    beside.job(bad)? == before,
                    "{ending:?} with a spoilt `{field}` was half done: {:?}",
                    ends[3]
                );
                match good_field.take() {
                    Some(good) => beside.set(bad, field, &good)?,
                    None => {
                        let key = beside.key(&format!("j:{}", bad.token.job_id.ulid()));
                        () = beside.redis.hdel(key, field)?;
                    }
                }
                let done = end(&world, ending, bad).await;
                ensure!(matches!(done, Ok(Finish::Done(_))), "{ending:?} when `{field}` is back: {done:?}");
            }
            world.until_due().await?;
            // Nothing is left over of what was queued again.
            while let Some(lease) = world.claim(&world.worker(), 1).await?.pop() {
                world.complete(&lease).await?;
            }
            world.audit().await.with_context(|| format!("{ending:?} {field}"))?;
        }
    }
    ensure!(refused >= 4 * 10, "{refused} finishes were refused");
    Ok(())
}

#[tokio::test]
async fn upkeep_goes_on_beside_records_that_cannot_be_read() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    let mut held = Vec::new();
    for number in 0..3 {
        let id = world.ticket(&format!("talk {number}")).await?;
        held.push((id, world.claim_one().await?));
    }
    let (_, bad) = &held[1];
    let attempts = beside.job(bad)?["a"].clone();
    beside.set(bad, "a", SPOILT)?;
    let before = beside.job(bad)?;
    // What nothing stands behind any more.
    for index in ["y", "z", "run", "delayed"] {
        () = beside.redis.zadd(beside.key(index), "00000000000000000000000000", 1)?;
    }
    let mut unreadable = 0;
    for _ in 0..40 {
        world.clock.advance(std::time::Duration::from_secs(1));
        unreadable += world.store.tick().await?.unreadable;
    }
    ensure!(unreadable == 1, "{unreadable} times a record could not be read");
    ensure!(beside.job(bad)? == before, "it was half done");
    for (id, _) in [&held[0], &held[2]] {
        world.expect(id, SubmissionStatus::Queued).await?;
    }
    for index in ["y", "z", "run", "delayed"] {
        let left: Option<f64> = beside.redis.zscore(beside.key(index), "00000000000000000000000000")?;
        ensure!(left.is_none(), "a leftover in `{index}`");
    }
    beside.set(bad, "a", &attempts)?;
    world.renew(&bad.token).await?;
    ensure!(
        world.complete(bad).await? == Finish::Done(JobState::Completed),
        "it goes on when it can be read"
    );
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_claim_passes_over_a_job_that_cannot_be_read() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = Beside::of(&harness);
    world.settle().await?;
    for field in ["a", "e", "f", "ls", "nl", "z", "p", "o"] {
        let (bad, good) = (world.upload(&format!("bad {field}")), world.upload(&format!("good {field}")));
        let bad_key = beside.key(&format!("j:{}", bad.job_id.ulid()));
        let (bad_id, good_job) = (bad.id.clone(), good.job_id.clone());
        world.store.submit(bad).await?;
        world.store.submit(good).await?;
        let right: String = beside.redis.hget(&bad_key, field)?;
        () = beside.redis.hset(&bad_key, field, SPOILT)?;
        let given = world.claim_one().await.with_context(|| format!("a claim beside a spoilt `{field}`"))?;
        ensure!(given.token.job_id == good_job, "{field}: {given:?}");
        world.complete(&given).await?;
        world.clock.advance(std::time::Duration::from_secs(1));
        let seen = world.store.tick().await?.unreadable;
        ensure!(seen > 0, "upkeep does not say that `{field}` is spoilt");
        // Put right, it is found again.
        () = beside.redis.hset(&bad_key, field, right)?;
        world.clock.advance(std::time::Duration::from_secs(1));
        world.store.tick().await?;
        let found = world.claim_one().await?;
        world.complete(&found).await?;
        world.expect(&bad_id, SubmissionStatus::Completed).await?;
        world.audit().await.with_context(|| field.to_owned())?;
    }
    Ok(())
}
