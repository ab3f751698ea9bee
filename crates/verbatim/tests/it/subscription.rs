//! One subscription behind a whole cluster: eight workers on one Redis share an Azure (a stand-in) that takes 20 calls at once
//! and 600 in a minute of 30 seconds. `VERBATIM_TRIAL_JOBS=1000` makes it long enough for its throughput to mean something;
//! `--no-capture` shows it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use verbatim_standins::{AzureSettings, AzureStandIn, Latency, Limits};

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

const WORKERS: usize = 8;
const CLIENTS: usize = 32;
const AT_ONCE: usize = 20;
const PER_MINUTE: usize = 600;
const MINUTE: Duration = Duration::from_secs(30);
const LATENCY: Duration = Duration::from_millis(800);
const KEY: &str = "one-subscription-for-all";

fn numbered(number: i16) -> Vec<u8> {
    let mut samples = hello();
    samples.push(number);
    wav(16_000, &samples)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_together_keep_within_one_subscription() -> Result<()> {
    let jobs: i16 = std::env::var("VERBATIM_TRIAL_JOBS").ok().map_or(Ok(100), |jobs| jobs.parse())?;
    let azure = AzureStandIn::start(AzureSettings {
        key: KEY.to_owned(),
        limits: Limits {
            concurrency: Some(AT_ONCE),
            per_minute: Some(PER_MINUTE),
            minute: MINUTE,
            retry_after: Some(Duration::from_secs(1)),
        },
        latency: Latency { base: LATENCY, per_audio: 0.0 },
        ..AzureSettings::default()
    })
    .await;
    let folder = tempfile::tempdir()?;
    let per_minute = PER_MINUTE as u64 * 60 / MINUTE.as_secs();
    let provider = format!(
        "[[providers]]\nname = \"cloud\"\nkind = \"azure\"\nregion = \"westus\"\nendpoint = \"{}\"\nkey = \"{KEY}\"\n\
         requests_per_minute = {per_minute}\n",
        azure.url()
    );
    std::fs::write(folder.path().join("verbatim.toml"), provider)?;
    let redis = RedisServer::start(&["--appendonly", "yes"]);
    let url = redis.url();
    let settings = [
        ("VERBATIM__REDIS__URL", url.as_str()),
        ("VERBATIM__AUTH__REQUIRED", "false"),
        ("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", "0"),
    ];
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Server::start_node("worker", folder.path(), &settings).await?);
    }
    let api = Server::start_node("api", folder.path(), &settings).await?;
    let client = &Client::new(api.url());

    let begun = Instant::now();
    let ids: Vec<_> = stream::iter(0..jobs)
        .map(|number| client.accepted(numbered(number), &[]))
        .buffer_unordered(CLIENTS)
        .try_collect()
        .await?;
    let ended: Vec<_> =
        stream::iter(&ids).map(|id| client.ended(id)).buffer_unordered(CLIENTS).try_collect().await?;
    let took = begun.elapsed();
    for job in &ended {
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
    }
    ensure!(azure.violations().is_empty(), "{:?}", azure.violations());
    ensure!(azure.tokens().len() == 1, "{} tokens were made for one key", azure.tokens().len());
    ensure!(azure.in_flight_peak() <= AT_ONCE, "the stand-in let {} in", azure.in_flight_peak());
    let refused = azure.requests().iter().filter(|request| request.status == Some(429)).count();
    let allowed = (AT_ONCE as f64 / LATENCY.as_secs_f64()).min(PER_MINUTE as f64 / MINUTE.as_secs_f64());
    let throughput = f64::from(jobs) / took.as_secs_f64();
    println!(
        "{jobs} jobs, {WORKERS} workers on Redis: {:.1} s, {throughput:.1} jobs/s of {allowed:.1} ({:.1} %), refused {refused}",
        took.as_secs_f64(),
        100.0 * throughput / allowed
    );
    ensure!(
        refused * 5 < ended.len(),
        "{refused} of {} calls were refused: the limit is not kept",
        ended.len()
    );
    Ok(())
}
