//! A cluster of processes on one Redis and one folder: two API nodes and two workers with the fake engine.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, hello_times, wav};
use crate::support::{Client, Server};

const AOF: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

struct Cluster {
    folder: tempfile::TempDir,
    redis: RedisServer,
    apis: Vec<Server>,
    workers: Vec<Server>,
}

impl Cluster {
    async fn start(real_time_factor: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = RedisServer::start(&AOF);
        let mut cluster = Self { folder, redis, apis: Vec::new(), workers: Vec::new() };
        for _ in 0..2 {
            cluster.workers.push(cluster.node("worker", real_time_factor).await?);
        }
        for _ in 0..2 {
            cluster.apis.push(cluster.node("api", real_time_factor).await?);
        }
        Ok(cluster)
    }

    async fn node(&self, command: &str, real_time_factor: &str) -> Result<Server> {
        let url = self.redis.url();
        let settings = [
            ("VERBATIM__REDIS__URL", url.as_str()),
            ("VERBATIM__AUTH__REQUIRED", "false"),
            ("VERBATIM__WORKER__ENGINES", "fake"),
            ("VERBATIM__WORKER__LEASE_SECS", "3"),
            ("VERBATIM__FAKE__REAL_TIME_FACTOR", real_time_factor),
        ];
        Server::start_node(command, self.folder.path(), &settings).await
    }

    fn client(&self, node: usize) -> Client {
        Client::new(self.apis[node % self.apis.len()].url())
    }

    /// Attempts that ended as completed, on all workers.
    async fn completed_attempts(&self) -> Result<f64> {
        let mut sum = 0.0;
        for worker in &self.workers {
            let metrics = Client::new(worker.url()).metrics().await?;
            let name = "verbatim_job_attempts_total{outcome=\"completed\"}";
            sum += metrics.get(name).copied().unwrap_or(0.0);
        }
        Ok(sum)
    }
}

/// A sound that no other number gives.
fn numbered(number: usize) -> Vec<u8> {
    let mut samples = hello();
    samples.push(i16::try_from(number).expect("a small number"));
    wav(16_000, &samples)
}

#[tokio::test]
async fn what_one_node_took_in_the_other_shows() -> Result<()> {
    let cluster = Cluster::start("0.01").await?;
    let id = cluster.client(0).accepted(hello_times(1), &[]).await?;
    let job = cluster.client(1).ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    ensure!(cluster.client(0).text(&id).await? == cluster.client(1).text(&id).await?);
    Ok(())
}

#[tokio::test]
async fn the_same_file_through_both_nodes_at_once_is_transcribed_once() -> Result<()> {
    let cluster = Cluster::start("0.1").await?;
    let audio = hello_times(1);
    let all = (0..200).map(|number| {
        let (client, audio) = (cluster.client(number), audio.clone());
        async move {
            let id = client.accepted(audio, &[]).await?;
            let job = client.ended(&id).await?;
            ensure!(job["status"] == "completed", "{job}");
            client.text(&id).await
        }
    });
    let texts = try_join_all(all).await?;
    ensure!(
        texts.iter().all(|text| !text.is_empty() && *text == texts[0]),
        "two clients got different words"
    );
    let attempts = cluster.completed_attempts().await?;
    ensure!(attempts == 1.0, "one file was transcribed {attempts} times");
    Ok(())
}

#[tokio::test]
async fn a_killed_worker_loses_its_jobs_to_another_and_none_is_lost() -> Result<()> {
    let mut cluster = Cluster::start("0.2").await?;
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(cluster.client(number).accepted(numbered(number), &[]).await?);
    }
    cluster.workers[0].kill().await?;
    for id in &ids {
        let job = cluster.client(1).ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "an attempt was burnt: {job}");
    }
    Ok(())
}

#[tokio::test]
async fn while_redis_is_down_clients_are_told_when_to_return_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Cluster::start("0.2").await?;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(cluster.client(number).accepted(numbered(number), &[]).await?);
    }
    cluster.redis.kill();
    let client = cluster.client(0);
    let answer = client.http.get(format!("{}/v1/jobs", client.url)).send().await?;
    ensure!(answer.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.status());
    ensure!(answer.headers().contains_key("retry-after"), "it does not say when to return");
    let (status, problem): (_, Value) = client.upload(numbered(99), &[]).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && problem["code"] == "unavailable", "{problem}");
    cluster.redis.restart();
    for id in &ids {
        let job = cluster.client(1).ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "an attempt was burnt: {job}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_says_what_it_lacks() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refused =
        Server::start_node("api", folder.path(), &[]).await.err().context("it started without Redis")?;
    ensure!(format!("{refused:#}").contains("VERBATIM__REDIS__URL"), "{refused:#}");
    let redis = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let settings = [("VERBATIM__REDIS__URL", redis.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let refused = Server::start_node("worker", folder.path(), &settings).await.err().context("it evicts")?;
    ensure!(format!("{refused:#}").contains("maxmemory-policy noeviction"), "{refused:#}");
    Ok(())
}
