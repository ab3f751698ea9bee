//! What is the Redis store's own: full, restarted, forgetful and wrongly set up servers, cluster and sentinels, and what a
//! job costs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::Commands;
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::event::Stage;
use verbatim_core::ids::TenantId;
use verbatim_core::job::{JobState, LeaseToken, Report, SubmissionStatus};
use verbatim_core::money::Money;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{ClaimRequest, DeadLetterQuery, Finish, GarbageRequest};
use verbatim_core::ports::ledger::{Charge, EntryId};
use verbatim_core::ports::{BlobOwner, JobAdmin, JobClient, JobLeases, JobUpkeep, Ledger};
use verbatim_core::transcript::Segment;
use verbatim_core::{ErrorKind, Refusal};
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::{SeededIds, World};

use crate::server::RedisServer;
use crate::support::{RedisHarness, calls};

const AOF: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

/// One job from submission to completion, and the audit.
async fn one_life(harness: &RedisHarness) -> Result<()> {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

async fn refusal(harness: &RedisHarness) -> Result<(ErrorKind, String)> {
    let config = harness.config(StorePolicy::default(), Arc::new(SeededIds::starting_at(1)));
    let error = RedisStore::connect(config).await.err().context("this Redis was not refused")?;
    Ok((error.kind(), error.to_string()))
}

#[tokio::test]
async fn abilities_are_remembered_as_long_as_their_worker_is_heard_of() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    world.ticket("talk").await?;
    let abilities = Abilities::of([JobClass::of(&TranscribeOptions::for_model("tiny.en"))]);
    let digest = abilities.digest().context("these are not all")?.to_owned();
    let key = format!("{{{}}}:abilities:{digest}", harness.prefix());
    let mut beside = harness.beside();
    let request = |worker| ClaimRequest { abilities: abilities.clone(), ..world.request(worker, true) };
    let worker = world.worker();
    let lease = world.store.claim(request(&worker)).await?.context("there is a job")?;
    let kept: i64 = beside.pttl(&key)?;
    let nearly_over = |beside: &mut redis::Connection| beside.pexpire::<_, ()>(&key, kept / 2);
    nearly_over(&mut beside)?;
    world.renew(&lease.token).await?;
    let renewed: i64 = beside.pttl(&key)?;
    ensure!(renewed > kept * 3 / 4, "after a renewal they are remembered for {renewed} of {kept} ms");
    nearly_over(&mut beside)?;
    ensure!(world.store.claim(request(&worker)).await?.is_none(), "there is one job");
    let claimed: i64 = beside.pttl(&key)?;
    ensure!(claimed > kept * 3 / 4, "after a claim they are remembered for {claimed} of {kept} ms");
    Ok(())
}

#[tokio::test]
async fn a_queued_job_costs_less_than_two_kilobytes() -> Result<()> {
    const JOBS: u64 = 1000;
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    for number in 0..JOBS {
        let digest = format!("{number:064x}");
        let mut upload = world.upload(&digest);
        upload.audio.sha256 = digest;
        world.store.submit(upload).await?;
    }
    let mut beside = harness.beside();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{{{}}}:*", harness.prefix())).query(&mut beside)?;
    let mut total = 0;
    for key in keys {
        let bytes: u64 =
            redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).query(&mut beside)?;
        total += bytes;
    }
    let each = total / JOBS;
    println!("a queued job takes {each} bytes of Redis's memory, its share of every index included");
    ensure!(each < 2048, "a queued job takes {each} bytes");
    Ok(())
}

/// Bytes of all keys of the store, those of its own beside jobs included.
fn bytes_of(harness: &RedisHarness) -> Result<u64> {
    let mut beside = harness.beside();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{{{}}}:*", harness.prefix())).query(&mut beside)?;
    keys.into_iter()
        .map(|key| {
            Ok(redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).query::<u64>(&mut beside)?)
        })
        .sum()
}

/// Reports so many segments as Whisper makes them, each with its figures.
fn reports(segments: u32) -> impl Iterator<Item = Report> {
    let segment = |index: u32| Segment {
        index,
        start_ms: u64::from(index) * 4_000,
        end_ms: u64::from(index + 1) * 4_000,
        text: format!(" What is said in segment {index}, in about as many words as four seconds have."),
        words: Vec::new(),
        speaker: None,
        decoding: None,
    };
    (0..segments / 3).map(move |round| Report {
        progress: Some(((round + 1) as f32 / (segments / 3) as f32, Stage::Transcribing)),
        segments: (round * 3..round * 3 + 3).map(segment).collect(),
        checkpoint: None,
    })
}

#[tokio::test]
async fn a_finished_job_costs_less_than_a_queued_one() -> Result<()> {
    const JOBS: u64 = 300;
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    for number in 0..JOBS {
        let digest = format!("{number:064x}");
        let mut upload = world.upload(&digest);
        upload.audio.sha256 = digest;
        world.store.submit(upload).await?;
    }
    let queued = bytes_of(&harness)? / JOBS;
    let (worker, mut entries) = (world.worker(), Vec::new());
    while let Some(lease) = world.claim(&worker, 1).await?.first() {
        for report in reports(75) {
            ensure!(world.store.report(&lease.token, report).await?, "a report was refused");
        }
        world.complete(lease).await?;
        let LeaseToken { job_id, fence, nonce: _ } = lease.token.clone();
        entries.push(EntryId { job_id, fence, provider: "azure-westeurope".to_owned() });
    }
    let waiting = bytes_of(&harness)? / JOBS;
    let mut garbage = world.garbage().await?;
    ensure!(!garbage.is_empty(), "the audio is to be deleted");
    while !garbage.is_empty() {
        world.store.blobs_deleted(&garbage).await?;
        garbage = world.garbage().await?;
    }
    let finished = bytes_of(&harness)? / JOBS;
    for entry in entries {
        let (tenant, cost) = (world.tenant(), Some(Money::from_micros(12_345)));
        world.store.charge(Charge { entry, tenant, billed_ms: 300_000, cost }).await?;
    }
    let charged = bytes_of(&harness)? / JOBS;
    println!(
        "bytes of Redis's memory: queued {queued}, finished with 75 segments {finished} (until its audio is deleted \
         {waiting}), {charged} with what was charged for it"
    );
    ensure!(waiting < queued, "a finished job takes {waiting} bytes, a queued one {queued}");
    ensure!(
        charged < queued,
        "a finished job that was charged for takes {charged} bytes, a queued one {queued}"
    );
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn scripts_are_loaded_again_when_redis_has_forgotten_them() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut harness.beside())?;
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn what_a_replica_refuses_was_certainly_not_done() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    // It was a master until now, as before a failover.
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").exec(&mut harness.beside())?;
    let error = world.store.submit(world.upload("talk")).await.err().context("a replica took a job")?;
    ensure!(error.kind() == ErrorKind::Unavailable && error.is_definite(), "refused with {error:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_redis_refuses_submissions_and_finishes_what_it_has() -> Result<()> {
    let server = RedisServer::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    // Everything that takes room once is there.
    world.ticket("first").await?;
    world.work_off_one().await?;
    let used = || -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut harness.beside())?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).context("its memory")?;
        Ok(used.parse()?)
    };
    let mut accepted = Vec::new();
    let error = loop {
        ensure!(accepted.len() < 100_000, "6 MB hold 100,000 jobs");
        match world.store.submit(world.upload(&format!("{:064x}", accepted.len()))).await {
            Ok(outcome) => accepted.push(outcome.submission.id),
            Err(error) => break error,
        }
    };
    ensure!(error.kind() == ErrorKind::Unavailable && error.is_definite(), "refused with {error:?}");
    ensure!(error.retry_after().is_some(), "the client is told when to try again");
    ensure!(error.refusal() == Some(Refusal::StoreFull), "and that the store is full: {error:?}");
    let full = used()?;
    let worker = world.worker();
    loop {
        let leases = world.claim(&worker, 16).await?;
        if leases.is_empty() {
            break;
        }
        for lease in &leases {
            ensure!(
                world.complete(lease).await? == Finish::Done(JobState::Completed),
                "a job could not finish"
            );
        }
    }
    for id in &accepted {
        world.expect(id, SubmissionStatus::Completed).await?;
    }
    println!("{} jobs, used when full {full}, when all are done {}", accepted.len(), used()?);
    let again = world.store.submit(world.upload("once more")).await;
    ensure!(again.is_ok(), "all its work is done, and it takes no more: {again:?}");
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_process_subscribes_to_what_it_waits_for() -> Result<()> {
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let subscribers = |channel: &str| -> Result<u64> {
        let name = format!("{{{}}}:{channel}", harness.prefix());
        let (_, count): (String, u64) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg(name).query(&mut harness.beside())?;
        Ok(count)
    };
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    ensure!((subscribers("work")?, subscribers("news")?) == (0, 0), "it subscribes though nobody waits");
    let events = world.watch(&id, None).await?;
    while subscribers("news")? == 0 {
        tokio::task::yield_now().await;
    }
    ensure!(subscribers("work")? == 0, "a watcher is no worker");
    drop(events);
    let work = world.store.work_may_be_there();
    tokio::select! {
        () = work => {}
        () = async { while subscribers("work").is_ok_and(|count| count == 0) { tokio::task::yield_now().await } } => {}
    }
    ensure!((subscribers("work")?, subscribers("news")?) == (1, 1), "one subscription for both");
    Ok(())
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_redis_and_the_store_finds_it_again() -> Result<()> {
    let mut server = RedisServer::start(&AOF);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let (first, second) = (world.ticket("first").await?, world.ticket("second").await?);
    let lease = world.claim_one().await?;
    server.kill();
    let error = world.store.submit(world.upload("third")).await.err().context("nobody is there to answer")?;
    ensure!(error.kind() == ErrorKind::Unavailable && error.retry_after().is_some(), "it says {error:?}");
    ensure!(world.store.ping().await.is_err(), "a dead Redis answers");
    server.restart();
    ensure!(world.complete(&lease).await? == Finish::Done(JobState::Completed), "the lease was lost");
    world.work_off_one().await?;
    for id in [first, second] {
        world.expect(&id, SubmissionStatus::Completed).await?;
    }
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_watcher_outlives_a_restart_of_redis() -> Result<()> {
    use futures::StreamExt;
    let mut server = RedisServer::start(&AOF);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    let mut events = world.watch(&id, None).await?;
    ensure!(events.next().await.context("an event")??.kind.name() == "queued", "how it begins");
    server.kill();
    server.restart();
    world.work_off_one().await?;
    let mut last = String::new();
    while let Some(event) = events.next().await {
        event?.kind.name().clone_into(&mut last);
    }
    ensure!(last == "completed", "the stream ended with {last}");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_with_what_to_do() -> Result<()> {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let (kind, why) = refusal(&RedisHarness::at(&server.url())).await?;
    ensure!(kind == ErrorKind::Invalid && why.contains("maxmemory-policy noeviction"), "{why}");
    Ok(())
}

#[tokio::test]
async fn data_of_another_version_is_refused() -> Result<()> {
    let harness = RedisHarness::new();
    let _: () = harness.beside().set(format!("{{{}}}:layout", harness.prefix()), "99")?;
    let (kind, why) = refusal(&harness).await?;
    ensure!(kind == ErrorKind::Invalid && why.contains("redis.prefix"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_told_from_one_that_refuses_the_login() -> Result<()> {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    let with_password = server.url().replacen("redis://", "redis://:secret@", 1);
    one_life(&RedisHarness::at(&with_password)).await?;
    let wrong = server.url().replacen("redis://", "redis://:guess@", 1);
    let (kind, why) = refusal(&RedisHarness::at(&wrong)).await?;
    ensure!(kind == ErrorKind::Internal && why.contains("login") && !why.contains("guess"), "{why}");
    let url = server.url();
    drop(server);
    let (kind, why) = refusal(&RedisHarness::at(&url)).await?;
    ensure!(kind == ErrorKind::Unavailable && why.contains("cannot be reached"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_redis_cluster_keeps_jobs_too() -> Result<()> {
    let server = RedisServer::start(&["--cluster-enabled", "yes"]);
    let mut beside = redis::Client::open(server.url())?.get_connection()?;
    redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).exec(&mut beside)?;
    loop {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut beside)?;
        if info.contains("cluster_state:ok") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let url = server.url().replacen("redis://", "redis+cluster://", 1);
    one_life(&RedisHarness::at_through(&url, &server.url())).await
}

#[tokio::test]
async fn sentinels_lead_to_the_master() -> Result<()> {
    let master = RedisServer::start(&[]);
    let sentinel = RedisServer::sentinel_of(&master, "main");
    let url = format!("{}/main", sentinel.url().replacen("redis://", "redis+sentinel://", 1));
    one_life(&RedisHarness::at_through(&url, &master.url())).await
}

#[tokio::test]
async fn two_services_share_a_redis_without_seeing_each_other() -> Result<()> {
    let server = RedisServer::start(&[]);
    let (one, other) = (RedisHarness::at(&server.url()), RedisHarness::at(&server.url()));
    let (here, there) = (World::open(&one).await?, World::open(&other).await?);
    let id = here.ticket("talk").await?;
    ensure!(there.store.get(&TenantId::default(), &id).await?.is_none(), "the other service sees it");
    ensure!(there.claim(&there.worker(), 1).await?.is_empty(), "the other service was given it");
    here.work_off_one().await?;
    Ok(())
}

/// Of several nodes one has the turn, until it stops keeping it.
#[tokio::test]
async fn one_of_several_nodes_sweeps() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let turn = Duration::from_secs(60);
    ensure!(world.store.take_sweep("a", turn).await?);
    ensure!(!world.store.take_sweep("b", turn).await?, "it is the other's turn");
    world.clock.advance(turn / 2);
    ensure!(world.store.take_sweep("a", turn).await?, "it keeps it");
    world.clock.advance(turn - Duration::from_millis(1));
    ensure!(!world.store.take_sweep("b", turn).await?, "it was kept");
    world.clock.advance(Duration::from_millis(1));
    ensure!(world.store.take_sweep("b", turn).await?, "it is over");
    ensure!(!world.store.take_sweep("a", turn).await?, "now it is the other's");
    Ok(())
}

/// An older snapshot: what was completed since is to be done again, and its audio has not been deleted meanwhile.
#[tokio::test]
async fn a_completion_that_redis_forgot_is_made_again_on_audio_that_is_still_there() -> Result<()> {
    let mut server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    server.save();
    let lease = world.work_off_one().await?;
    let (grace, hold) = (Duration::from_secs(600), Duration::from_secs(60));
    let take = async || world.store.take_garbage(GarbageRequest { most: 9, grace, hold }).await;
    world.clock.advance(grace - Duration::from_millis(1));
    ensure!(take().await?.is_empty(), "nobody deletes it so soon");

    server.kill();
    server.restart();
    world.expect(&id, SubmissionStatus::Queued).await?;
    ensure!(world.needs(&lease.blob).await?, "its audio is needed again");
    world.clock.advance(grace);
    ensure!(take().await?.is_empty(), "what was listed for deletion was forgotten, too");
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await?;
    Ok(())
}

#[tokio::test]
async fn a_search_for_a_tenants_dead_letters_looks_at_a_few_thousand_and_no_more() -> Result<()> {
    const OTHERS: usize = 6000;
    let server = RedisServer::start(&[]);
    let harness = RedisHarness::at(&server.url());
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    let prefix = format!("{{{}}}:", harness.prefix());
    let mut seed = redis::pipe();
    for number in 0..OTHERS {
        let id = format!("{number:026}");
        seed.zadd(format!("{prefix}dlq"), &id, number).hset(format!("{prefix}j:{id}"), "t", "other");
    }
    seed.exec(&mut beside)?;
    let query = DeadLetterQuery { tenant: Some(world.tenant()), before: None, limit: 20 };
    let (scripts, reads) = (calls(&mut beside, "evalsha")?, calls(&mut beside, "hget")?);
    let page = world.store.dead_letters(query.clone()).await?;
    let (scripts, reads) = (calls(&mut beside, "evalsha")? - scripts, calls(&mut beside, "hget")? - reads);
    ensure!(scripts <= 5 && reads == 4096, "{scripts} scripts look at {reads} dead letters");
    ensure!(page.letters.is_empty() && page.next.is_some(), "{page:?}");
    let rest = world.store.dead_letters(DeadLetterQuery { before: page.next, ..query }).await?;
    ensure!(rest.letters.is_empty() && rest.next.is_none(), "{rest:?}");
    Ok(())
}
