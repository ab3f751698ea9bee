//! Beside nodes of the version before lanes (bf8ac4d), which go on with its scripts until they are replaced. The scripts in
//! `fixtures` are those, without their comments.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::{Commands, Connection, FromRedisValue};
use serde_json::json;
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::ids::{JobId, TenantId};
use verbatim_core::job::{JobState, Lease, LeaseToken, NewSubmission, Report, TenantCaps};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::ClaimRequest;
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_queue::conformance::World;
use verbatim_queue::conformance::checkpoints::checkpoint;

use crate::support::RedisHarness;

type OurWorld<'h> = World<'h, RedisHarness>;

const DAY: &str = "86400000";
/// How long their leases last.
const LEASE: Duration = Duration::from_secs(30);
/// What an older node does after each number of crashes.
const STEPS: &str = "1000,2000,-1";

macro_rules! older {
    ($file:literal) => {
        concat!(
            "#!lua flags=allow-oom\n",
            include_str!("fixtures/common.lua"),
            include_str!(concat!("fixtures/", $file))
        )
    };
}

/// A lease of an older worker.
struct Held {
    job: String,
    fence: String,
    nonce: String,
    checkpoint: String,
}

impl Held {
    /// The lease as an older worker would hold it.
    fn of(lease: &Lease) -> Self {
        let LeaseToken { job_id, fence, nonce } = &lease.token;
        let (job, nonce) = (job_id.ulid().to_owned(), nonce.as_str().to_owned());
        Self { job, fence: fence.get().to_string(), nonce, checkpoint: String::new() }
    }
}

/// An API node and a worker of the version before.
struct Older<'w, 'h> {
    world: &'w OurWorld<'h>,
    redis: Connection,
    prefix: String,
    claims: u32,
}

impl<'w, 'h> Older<'w, 'h> {
    fn beside(world: &'w OurWorld<'h>, harness: &RedisHarness) -> Self {
        Self { world, redis: harness.beside(), prefix: format!("{{{}}}:", harness.prefix()), claims: 0 }
    }

    fn run<T: FromRedisValue>(&mut self, script: &str, args: &[&str]) -> Result<T> {
        let now = self.world.now().as_millis();
        Ok(redis::cmd("EVAL")
            .arg(script)
            .arg(1)
            .arg(&self.prefix)
            .arg(now)
            .arg(args)
            .query(&mut self.redis)?)
    }

    fn submit(&mut self, new: &NewSubmission) -> Result<()> {
        let tier = match new.priority {
            Priority::Low => "0",
            Priority::Normal => "1",
            Priority::High => "2",
        };
        let unmoving = json!({ "options": new.options, "audio": new.audio }).to_string();
        let cap = new.caps.max_running.map(|most| most.to_string()).unwrap_or_default();
        let secs = new.estimated_secs.to_string();
        let args = [
            new.id.ulid(),
            new.job_id.ulid(),
            new.tenant.as_str(),
            new.dedupe_key.as_str(),
            &unmoving,
            tier,
            "",
            &secs,
            &cap,
            "",
            "{}",
            "",
            "",
            new.blob.as_str(),
            "auto",
            "3600000",
            DAY,
            DAY,
            DAY,
            "",
        ];
        let _: redis::Value = self.run(older!("submit.lua"), &args)?;
        Ok(())
    }

    /// Claims one job, for an idle worker.
    fn claim(&mut self, worker: &str) -> Result<Option<Held>> {
        self.claims += 1;
        let nonce = format!("older{}", self.claims);
        let args = [worker, &nonce, "1", "1", "30000", "60000", DAY, "{}"];
        let leases: Vec<Vec<String>> = self.run(older!("claim.lua"), &args)?;
        let held = |lease: &Vec<String>| Held {
            job: lease[0].clone(),
            fence: lease[2].clone(),
            nonce,
            checkpoint: lease[10].clone(),
        };
        Ok(leases.first().map(held))
    }

    /// Puts a queued job where older workers look too.
    fn offer(&mut self, job: &JobId) -> Result<()> {
        let tenant = self.world.tenant();
        let _: () = self.redis.zadd(format!("{}q:1:{tenant}", self.prefix), job.ulid(), 1)?;
        let _: () = self.redis.zadd(format!("{}a:1", self.prefix), tenant.as_str(), 0)?;
        Ok(())
    }

    fn report(&mut self, held: &Held, checkpoint: &Checkpoint) -> Result<()> {
        let Held { job, fence, nonce, .. } = held;
        let text = serde_json::to_string(checkpoint)?;
        let args = [job.as_str(), fence, nonce, "", "", &text, "50000"];
        let kept: u8 = self.run(older!("report.lua"), &args)?;
        ensure!(kept == 1, "the older worker lost {job}");
        Ok(())
    }

    fn finish(&mut self, kind: &str, held: &Held, more: [&str; 4]) -> Result<()> {
        let Held { job, fence, nonce, .. } = held;
        let args = [&[DAY, kind, job.as_str(), fence.as_str(), nonce.as_str()], &more[..]].concat();
        let states: Vec<String> = self.run(older!("finish.lua"), &args)?;
        ensure!(!states[0].is_empty(), "the older worker lost {job}");
        Ok(())
    }

    fn complete(&mut self, held: &Held) -> Result<()> {
        let result = format!("results/work_{}/older.json", held.job);
        self.finish("c", held, [&result, "1000", "fake", "tiny.en"])
    }

    fn cancel(&mut self, new: &NewSubmission, call: &str) -> Result<()> {
        let args = [new.tenant.as_str(), new.id.ulid(), DAY, call];
        let _: redis::Value = self.run(older!("cancel.lua"), &args)?;
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        let args = ["64", DAY, "{}", "{}", "{}", STEPS];
        let _: redis::Value = self.run(older!("tick.lua"), &args)?;
        Ok(())
    }
}

fn capped(new: NewSubmission) -> NewSubmission {
    NewSubmission { caps: TenantCaps { max_running: Some(1), ..TenantCaps::default() }, ..new }
}

fn for_model(new: NewSubmission, model: &str) -> NewSubmission {
    NewSubmission { options: TranscribeOptions::for_model(model), ..new }
}

/// A claim of a new worker that has this model only.
async fn claim(world: &OurWorld<'_>, model: &str) -> Result<Option<Lease>> {
    let abilities = Abilities::of([JobClass::of(&TranscribeOptions::for_model(model))]);
    Ok(world.store.claim(ClaimRequest { abilities, ..world.request(&world.worker(), true) }).await?)
}

/// A claim that must give this work.
async fn claim_work(world: &OurWorld<'_>, work: &str) -> Result<Lease> {
    let lease = world.claim_one().await?;
    ensure!(lease.audio.sha256 == work, "{} was given, not {work}", lease.audio.sha256);
    Ok(lease)
}

#[tokio::test]
async fn a_capped_tenant_is_served_when_an_older_worker_has_finished() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    for work in ["first", "second"] {
        older.submit(&capped(world.upload(work)))?;
    }
    let held = older.claim("W1")?.context("the first job")?;
    // The second one is taken over while its tenant is at its cap.
    world.settle().await?;
    older.complete(&held)?;
    world.settle().await?;
    let lease = claim_work(&world, "second").await?;
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_capped_tenant_is_served_when_an_older_node_took_its_job_back() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    for work in ["first", "second"] {
        older.submit(&capped(world.upload(work)))?;
    }
    older.claim("W1")?.context("the first job")?;
    world.settle().await?;
    world.clock.advance(LEASE);
    older.tick()?;
    world.clock.advance(LEASE);
    for round in 0..2 {
        world.settle().await?;
        let lease = world.claim_one().await.with_context(|| format!("in round {round}"))?;
        world.complete(&lease).await?;
    }
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn all_jobs_of_a_capped_tenant_are_adopted() -> Result<()> {
    const JOBS: usize = 150;
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    for number in 0..JOBS {
        older.submit(&capped(world.upload(&format!("talk {number}"))))?;
    }
    older.claim("W1")?.context("the first job")?;
    world.settle().await?;
    world.die().await?;
    let mut done = 0;
    for round in 0..2 * JOBS {
        // Another tenant, by which virtual time moves on.
        let other = TenantId::parse("other")?;
        for talk in 0..4 {
            let new = world.upload_of(&other, &format!("other {round} {talk}"), 100);
            world.store.submit(new).await?;
        }
        for _ in 0..5 {
            if let Some(lease) = world.store.claim(world.request(&world.worker(), true)).await? {
                done += usize::from(lease.tenant == world.tenant());
                world.complete(&lease).await?;
            }
        }
        world.settle().await?;
        if done == JOBS {
            break;
        }
    }
    ensure!(done == JOBS, "{done} of {JOBS} jobs were done");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_of_another_tier_is_adopted_when_its_tenant_was_at_its_cap() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    older.submit(&capped(world.upload("normal")))?;
    older.claim("W1")?.context("the first job")?;
    older.submit(&NewSubmission { priority: Priority::High, ..capped(world.upload("high")) })?;
    world.settle().await?;
    world.die().await?;
    for work in ["high", "normal"] {
        let lease = claim_work(&world, work).await?;
        world.complete(&lease).await?;
        world.settle().await?;
    }
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn what_an_older_node_cancelled_hides_no_job_and_leaves_its_lane() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    for number in 0..3 {
        // Nobody has this model, so that no claim finds out.
        let new = for_model(world.upload(&format!("gone {number}")), "large-v3");
        world.store.submit(new.clone()).await?;
        older.cancel(&new, "")?;
        if number == 0 {
            older.cancel(&new, "remove")?;
        }
    }
    for number in 0..3 {
        older.submit(&world.upload(&format!("talk {number}")))?;
    }
    world.settle().await?;
    for number in 0..3 {
        let lease = claim(&world, "tiny.en").await?.with_context(|| format!("job {number}"))?;
        world.complete(&lease).await?;
    }
    let unserved = world.store.stats().await?.unserved;
    ensure!(unserved.is_empty(), "jobs that wait for a worker: {unserved:?}");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_cap_holds_beside_older_workers() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    world.store.submit(capped(world.upload("ours"))).await?;
    older.submit(&capped(world.upload("older")))?;
    let held = older.claim("W1")?.context("an older worker gets the older job")?;
    ensure!(claim(&world, "tiny.en").await?.is_none(), "the cap is one running job");
    ensure!(world.count(JobState::Running).await? == 1, "one job runs");
    older.complete(&held)?;
    world.settle().await?;
    let lease = claim_work(&world, "ours").await?;
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_set_cap_holds_beside_older_api_nodes() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    let one = TenantCaps { max_running: Some(1), max_queued: None };
    world.store.set_caps(&[(world.tenant(), one)]).await?;
    for number in 0..3 {
        // Their keys have no cap, which an older node writes down as there being none.
        older.submit(&world.upload(&format!("talk {number}")))?;
        world.settle().await?;
    }
    let held = world.claim(&world.worker(), 10).await?;
    ensure!(held.len() == 1, "{} jobs run", held.len());
    older.submit(&world.upload("talk 3"))?;
    world.settle().await?;
    ensure!(claim(&world, "tiny.en").await?.is_none(), "an older API node undid the cap");
    // An older worker sees it as soon as a newer node has done anything for the tenant.
    ensure!(older.claim("W1")?.is_none(), "an older worker gets one beyond the cap");
    world.complete(&held[0]).await?;
    ensure!(world.claim(&world.worker(), 10).await?.len() == 1, "the next one runs");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_stands_in_both_queues_is_given_once() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    let job = world.submit("talk").await?.submission.job_id;
    older.offer(&job)?;
    let lease = claim_work(&world, "talk").await?;
    ensure!(older.claim("W1")?.is_none(), "an older worker gets it too");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_whose_tier_an_older_node_raised_is_given_once() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    world.ticket("talk").await?;
    older.submit(&NewSubmission { priority: Priority::High, ..world.upload("talk") })?;
    ensure!(claim(&world, "tiny.en").await?.is_none(), "it stands in its old lane no more");
    world.settle().await?;
    let lease = claim_work(&world, "talk").await?;
    ensure!(older.claim("W1")?.is_none(), "an older worker gets it too");
    world.complete(&lease).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn jobs_get_their_class_in_whatever_state_the_upgrade_finds_them() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    let failures = [("delayed", "1000"), ("dead", "-1"), ("running", "")];
    let mut jobs = Vec::new();
    for (number, (work, steps)) in failures.into_iter().enumerate() {
        let new = for_model(world.upload(work), "base");
        older.submit(&new)?;
        let held = older.claim(&format!("W{number}"))?.context("the job just queued")?;
        if !steps.is_empty() {
            older.finish("f", &held, ["{\"kind\":\"engine_failed\",\"message\":\"x\"}", steps, "0", ""])?;
        }
        jobs.push(new.job_id);
    }
    world.settle().await?;
    for job in &jobs {
        let class: Option<String> = older.redis.hget(format!("{}j:{}", older.prefix, job.ulid()), "K")?;
        ensure!(class.as_deref() == Some("auto/base"), "the class of {job} is {class:?}");
    }
    // The older worker dies, and the delayed job is due.
    world.die().await?;
    ensure!(claim(&world, "tiny.en").await?.is_none(), "a worker without the model gets one");
    for number in 0..2 {
        let lease = claim(&world, "base").await?.with_context(|| format!("job {number}"))?;
        world.complete(&lease).await?;
    }
    world.audit().await?;
    Ok(())
}

async fn report(world: &OurWorld<'_>, lease: &Lease, checkpoint: Checkpoint) -> Result<()> {
    let report = Report { checkpoint: Some(checkpoint), ..Report::default() };
    ensure!(world.store.report(&lease.token, report).await?, "our report was refused");
    Ok(())
}

/// An older worker knows nothing of our checkpoint, and begins again. Whoever comes next goes on from the one that got further.
#[tokio::test]
async fn of_the_checkpoints_of_both_versions_the_further_one_is_gone_on_from() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    for (work, its, expected) in [
        ("ours", 6, checkpoint("ours", 7)),
        ("its", 8, checkpoint("its", 8)),
        ("same", 7, checkpoint("ours", 7)),
    ] {
        let job = world.submit(work).await?.submission.job_id;
        let lease = claim_work(&world, work).await?;
        for count in [5, 7] {
            report(&world, &lease, checkpoint("ours", count)).await?;
        }
        world.store.release(&lease.token).await?;
        older.offer(&job)?;
        let held = older.claim("W1")?.context("the older worker gets it")?;
        ensure!(held.checkpoint.is_empty(), "the older worker goes on from {}", held.checkpoint);
        older.report(&held, &checkpoint("its", its))?;
        world.settle().await?;
        world.die().await?;
        let lease = claim_work(&world, work).await?;
        ensure!(lease.checkpoint == Some(expected), "{work}: {:?}", lease.checkpoint);
        // Ours takes the place of both.
        report(&world, &lease, checkpoint("again", 2)).await?;
        let old: bool = older.redis.exists(format!("{}h:{}", older.prefix, job.ulid()))?;
        ensure!(!old, "the checkpoint of the older worker is still there");
        world.die().await?;
        let lease = claim_work(&world, work).await?;
        ensure!(lease.checkpoint == Some(checkpoint("again", 2)), "{work}: {:?}", lease.checkpoint);
        world.complete(&lease).await?;
        world.settle().await?;
    }
    world.audit().await?;
    Ok(())
}

/// Nodes of before delete what they know: what they leave of a job expires, though not before the job may need it.
#[tokio::test]
async fn a_checkpoint_that_an_older_node_leaves_behind_expires() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut older = Older::beside(&world, &harness);
    world.submit("talk").await?;
    let lease = claim_work(&world, "talk").await?;
    report(&world, &lease, checkpoint("ours", 7)).await?;
    older.complete(&Held::of(&lease))?;
    let left: i64 = older.redis.pttl(format!("{}hs:{}", older.prefix, lease.token.job_id.ulid()))?;
    let longest = world.policy.max_age + world.policy.result_retention;
    let needed = i64::try_from(longest.as_millis())?;
    let day: i64 = DAY.parse()?;
    ensure!((needed..needed + 2 * day).contains(&left), "it stays for {left} ms, a job for {needed}");
    world.settle().await?;
    world.audit().await?;
    Ok(())
}
