//! How fast the queue alone is: jobs that are no work, queued and drained on a Redis. Prints jobs per second for both, as
//! JSON on the last line. `bench/queue` runs it beside Sidekiq.
//!
//! `redis_drain URL [JOBS] [WORKERS] [SLOTS]`; `redis_drain URL --backlog [QUEUED] [DELAYED]` times claims on a short and on a
//! long queue instead.

// The futures of a whole run, one within the other, are deeper than the default allows.
#![recursion_limit = "256"]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use verbatim_core::audio::{AudioFormat, AudioInfo};
use verbatim_core::class::Abilities;
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{ClaimNonce, IdSource, JobId, SubmissionId, TenantId, WorkerId};
use verbatim_core::job::{Completion, JobState, Lease, NewSubmission, TenantCaps};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{ClaimRequest, Finish};
use verbatim_core::ports::{BlobKey, JobClient, JobLeases, JobUpkeep};
use verbatim_queue::{RedisConfig, RedisStore};

const LEASE: Duration = Duration::from_secs(30);
/// Submissions under way at once.
const SUBMITTERS: usize = 64;

/// Ids that count.
#[derive(Default)]
struct Ids(AtomicU64);

impl IdSource for Ids {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        0.5
    }

    fn secret(&self) -> [u8; 32] {
        [0; 32]
    }
}

fn submission(ids: &Ids, number: usize) -> NewSubmission {
    let job_id = JobId::generate(ids);
    let digest = format!("{number:064x}");
    NewSubmission {
        id: SubmissionId::generate(ids),
        blob: BlobKey::for_upload(&job_id),
        job_id,
        tenant: TenantId::default(),
        options: TranscribeOptions::for_model("tiny.en"),
        dedupe_key: DedupeKey::from_stored(&digest),
        audio: AudioInfo {
            sha256: digest,
            bytes: 512_044,
            format: AudioFormat::Wav,
            duration_ms: Some(16_040),
            findings: Default::default(),
        },
        priority: Priority::Normal,
        deadline: None,
        estimated_secs: 17,
        caps: TenantCaps::default(),
        metadata: BTreeMap::new(),
        idempotency: None,
        trace: None,
    }
}

async fn fill(store: &RedisStore, ids: &Ids, jobs: usize) -> Result<f64> {
    let began = Instant::now();
    fill_from(store, ids, 0, jobs).await?;
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

async fn fill_from(store: &RedisStore, ids: &Ids, first: usize, end: usize) -> Result<()> {
    let submit = |first: usize| async move {
        for number in (first..end).step_by(SUBMITTERS) {
            store.submit(submission(ids, number)).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((first..first + SUBMITTERS).map(submit)).await?;
    Ok(())
}

async fn complete(store: &RedisStore, lease: &Lease) -> Result<()> {
    let completion = Completion {
        result: BlobKey::for_result(&lease.token),
        duration_ms: 16_040,
        findings: Default::default(),
        engine: "none".to_owned(),
        model: "tiny.en".to_owned(),
        segments: 0,
        retold: false,
    };
    let finish = store.complete(&lease.token, completion).await?;
    ensure!(finish == Finish::Done(JobState::Completed), "a job ended as {finish:?}");
    Ok(())
}

/// One slot of a worker: claims a job, completes it, and so on until there is none.
async fn work(store: RedisStore, ids: Arc<Ids>, worker: WorkerId) -> Result<usize> {
    for done in 0.. {
        let nonce = ClaimNonce::generate(&*ids);
        let request = ClaimRequest {
            worker: worker.clone(),
            nonce,
            idle: false,
            lease: LEASE,
            abilities: Abilities::all(),
        };
        let Some(lease) = store.claim(request).await? else { return Ok(done) };
        complete(&store, &lease).await?;
    }
    unreachable!("there is an end of jobs")
}

async fn drain(store: &RedisStore, ids: &Arc<Ids>, workers: usize, slots: usize) -> Result<(usize, f64)> {
    let began = Instant::now();
    let workers: Vec<_> = (0..workers).map(|_| WorkerId::generate(&**ids)).collect();
    let working: Vec<_> = workers
        .iter()
        .flat_map(|worker| std::iter::repeat_n(worker, slots))
        .map(|worker| tokio::spawn(work(store.clone(), Arc::clone(ids), worker.clone())))
        .collect();
    let mut done = 0;
    for worker in working {
        done += worker.await??;
    }
    Ok((done, done as f64 / began.elapsed().as_secs_f64()))
}

/// Claims a job for a new worker. There must be one.
async fn claim(store: &RedisStore, ids: &Ids) -> Result<Lease> {
    let (worker, nonce) = (WorkerId::generate(ids), ClaimNonce::generate(ids));
    let request = ClaimRequest { worker, nonce, idle: true, lease: LEASE, abilities: Abilities::all() };
    store.claim(request).await?.context("there is a job to claim")
}

/// Claims jobs and gives them back, and says how long the claims took: median and 99th percentile.
async fn claims(store: &RedisStore, ids: &Ids, count: usize) -> Result<String> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let lease = claim(store, ids).await?;
        times.push(began.elapsed());
        store.release(&lease.token).await?;
    }
    times.sort();
    let at = |share: f64| times[((count - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    Ok(format!("a claim takes {:.2} ms (median), {:.2} ms (99 %)", at(0.5), at(0.99)))
}

/// Delays jobs by failing them.
async fn delay(store: &RedisStore, ids: &Ids, jobs: usize) -> Result<()> {
    let some = |first: usize| async move {
        for _ in (first..jobs).step_by(SUBMITTERS) {
            store.fail(&claim(store, ids).await?.token, later()).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..SUBMITTERS).map(some)).await?;
    Ok(())
}

/// A provider that wants to be asked again in an hour.
fn later() -> JobFailure {
    let mut failure = JobFailure::new(FailureKind::Throttled, "later");
    failure.retry_after = Some(Duration::from_secs(3600));
    failure
}

async fn backlog(store: &RedisStore, ids: &Ids, queued: usize, delayed: usize) -> Result<()> {
    fill(store, ids, 1000).await?;
    println!("1,000 jobs queued: {}", claims(store, ids, 1000).await?);
    fill_from(store, ids, 1000, queued + delayed).await?;
    delay(store, ids, delayed).await?;
    let stats = store.stats().await?;
    println!("{:?}: {}", stats.states, claims(store, ids, 1000).await?);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let url = arguments.next().context("redis_drain URL [JOBS] [WORKERS] [SLOTS]")?;
    let long = arguments.next_if_eq("--backlog").is_some();
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let ids = Arc::new(Ids::default());
    let prefix = format!("bench-{}", std::process::id());
    let config = RedisConfig { url, prefix, policy: StorePolicy::default(), ids: ids.clone() };
    let store = RedisStore::connect(config).await?;
    if long {
        return backlog(&store, &ids, number(1_000_000)?, number(200_000)?).await;
    }
    let (jobs, workers, slots) = (number(20_000)?, number(4)?, number(16)?);
    let queued_per_sec = fill(&store, &ids, jobs).await?;
    let (done, drained_per_sec) = drain(&store, &ids, workers, slots).await?;
    let left = store.stats().await?.tiers.iter().map(|tier| tier.depth).sum::<u64>();
    ensure!(done == jobs && left == 0, "{done} of {jobs} jobs were drained, {left} are left");
    println!("{{\"queued_per_sec\":{queued_per_sec:.0},\"drained_per_sec\":{drained_per_sec:.0}}}");
    Ok(())
}
