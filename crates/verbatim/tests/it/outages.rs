//! The store is away for longer than a lease, and everybody who holds a job lives: each job is finished by who holds it, and
//! nobody is blamed. What is counted are jobs begun, by the logs of those who began them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

/// The shortest lease that there may be.
const LEASE: Duration = Duration::from_secs(3);
/// Longer than that, and than what counts as an outage.
const AWAY: Duration = Duration::from_secs(5);

const SETTINGS: [(&str, &str); 5] = [
    ("VERBATIM__AUTH__REQUIRED", "false"),
    ("VERBATIM__WORKER__ENGINES", "fake"),
    ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.5"),
    ("VERBATIM__WORKER__LEASE_SECS", "3"),
    ("VERBATIM__WORKER__RENEW_SECS", "1"),
];

/// Silence is worked on, too.
const WHOLE: [(&str, &str); 1] = [("vad", "false")];

/// Speech that takes so long to work on, unlike that of every other number.
fn work(time: Duration, number: u16) -> Vec<u8> {
    let mut samples = hello();
    samples.resize(usize::try_from(time.as_millis()).expect("a short time") * 2 * 16, 0);
    // Far from silence, and of each number its own.
    samples.extend(number.to_le_bytes().map(|byte| i16::from(byte) + 1000));
    wav(16_000, &samples)
}

/// How often each job was begun, as this log tells.
fn begun(log: &Path) -> Result<HashMap<String, usize>> {
    let mut jobs = HashMap::new();
    for line in std::fs::read_to_string(log)?.lines().filter(|line| line.contains("job started")) {
        let id = line.split("job.id=").nth(1).context("a job")?;
        let id: String =
            id.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
        *jobs.entry(id).or_default() += 1;
    }
    Ok(jobs)
}

async fn until_processing(client: &Client, id: &str) -> Result<()> {
    while client.get(&format!("/v1/jobs/{id}")).await?["status"] != "processing" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// `verbatim serve`, stopped and let go on so often while it works on a job: as a laptop that sleeps.
async fn sleeps_beyond_its_lease(times: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_in(folder.path(), &SETTINGS).await?;
    let client = Client::new(server.url());
    // It takes longer than all of that; a second one waits in another slot for something to go wrong.
    let awake = Duration::from_secs(2);
    let id = client.accepted(work((AWAY + awake) * times + awake, 1), &WHOLE).await?;
    until_processing(&client, &id).await?;
    for _ in 0..times {
        server.freeze().await?;
        tokio::time::sleep(AWAY).await;
        server.thaw().await?;
        // Ticks and renewals come by.
        tokio::time::sleep(awake).await;
    }
    let metrics = client.metrics().await?;
    let job = client.ended(&id).await?;
    ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
    let begun = begun(&folder.path().join("serve.log"))?;
    ensure!(begun.len() == 1 && begun.values().all(|times| *times == 1), "it took its own job: {begun:?}");
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    // A job that was not taken back is blamed for nothing: crashes and deaths are counted there.
    ensure!(count("verbatim_leases_lapsed_total") == 0.0, "{metrics:?}");
    // A machine that is busy with other things may stop it once more.
    ensure!(count("verbatim_store_gaps_total") >= f64::from(times), "it was not away as long as was meant");
    Ok(())
}

#[tokio::test]
async fn a_service_that_sleeps_beyond_its_lease_takes_no_job_from_itself() -> Result<()> {
    sleeps_beyond_its_lease(1).await
}

#[tokio::test]
async fn soak_a_service_that_sleeps_again_and_again_takes_no_job_from_itself() -> Result<()> {
    sleeps_beyond_its_lease(3).await
}

struct Cluster {
    redis: RedisServer,
    api: Server,
    workers: Vec<(Server, PathBuf)>,
    _folder: tempfile::TempDir,
}

/// Jobs that each worker may hold.
const SLOTS: usize = 4;
const WORKERS: usize = 3;

impl Cluster {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let url = redis.url();
        let mut settings = SETTINGS.to_vec();
        settings.extend([
            ("VERBATIM__REDIS__URL", url.as_str()),
            ("VERBATIM__WORKER__CONCURRENCY", "4"),
            // A worker that starts afresh counts from zero.
            ("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", "0"),
        ]);
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(Server::start_to_listen("worker", folder.path(), &settings).await?);
        }
        let api = Server::start_node("api", folder.path(), &settings).await?;
        Ok(Self { redis, api, workers, _folder: folder })
    }

    /// How many jobs each worker has begun.
    fn begun(&self) -> Result<Vec<usize>> {
        self.workers.iter().map(|(_, log)| Ok(begun(log)?.values().sum())).collect()
    }
}

/// Some jobs are in hand and more wait when `leaves` happens to Redis, which `returns` undoes after longer than a lease.
async fn outage(leaves: impl FnOnce(&mut RedisServer), returns: impl FnOnce(&mut RedisServer)) -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let client = Client::new(cluster.api.url());
    let (long, short) = (LEASE * 2 + AWAY, Duration::from_millis(400));
    let mut jobs = Vec::new();
    // In half of all slots, from before the outage until after it.
    for number in 0..WORKERS * SLOTS / 2 {
        jobs.push(client.accepted(work(long, u16::try_from(number)?), &WHOLE).await?);
    }
    for id in &jobs {
        until_processing(&client, id).await?;
    }
    for number in 100..240 {
        jobs.push(client.accepted(work(short, number), &WHOLE).await?);
    }
    tokio::time::sleep(LEASE).await;
    leaves(&mut cluster.redis);
    tokio::time::sleep(AWAY).await;
    returns(&mut cluster.redis);
    let at_the_return = cluster.begun()?;

    for id in &jobs {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
    }
    let in_the_end = cluster.begun()?;
    println!("jobs begun by each worker: {at_the_return:?} before Redis was back, {in_the_end:?} in the end");
    for (worker, (then, now)) in at_the_return.iter().zip(&in_the_end).enumerate() {
        ensure!(now > then, "worker {worker} took nothing any more: {at_the_return:?} {in_the_end:?}");
    }
    let mut times: HashMap<String, usize> = HashMap::new();
    for (_, log) in &cluster.workers {
        for (job, begun) in begun(log)? {
            *times.entry(job).or_default() += begun;
        }
    }
    ensure!(times.len() == jobs.len(), "{} of {} jobs were begun", times.len(), jobs.len());
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(twice.is_empty(), "begun by more than who held them: {twice:?}");
    let nodes = cluster.workers.iter().map(|(worker, _)| worker.url()).chain([cluster.api.url()]);
    let (mut lapsed, mut gaps) = (0.0, 0.0);
    for node in nodes {
        let metrics = Client::new(node).metrics().await?;
        lapsed += metrics["verbatim_leases_lapsed_total"] + metrics["verbatim_leases_revived_total"];
        gaps += metrics["verbatim_store_gaps_total"];
    }
    ensure!(lapsed == 0.0 && gaps >= 1.0, "{lapsed} leases were taken back, {gaps} outages were noticed");
    Ok(())
}

#[tokio::test]
async fn after_a_redis_that_hung_beyond_a_lease_all_go_on_with_what_they_hold() -> Result<()> {
    outage(|redis| redis.freeze(), |redis| redis.thaw()).await
}

#[tokio::test]
async fn after_a_redis_that_was_down_beyond_a_lease_all_go_on_with_what_they_hold() -> Result<()> {
    outage(RedisServer::kill, RedisServer::restart).await
}
