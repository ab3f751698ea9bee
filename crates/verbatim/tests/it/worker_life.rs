//! How workers of a cluster come and go: told to stop once or twice, over a shared folder or a bucket. How they restart
//! themselves is in `recycle`.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::support::bucket::{ACCESS_KEY, BUCKET, SECRET, TestServer};
use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, hello_times, wav};
use crate::support::{Client, Server};

/// Fake words as fast as they come.
const FAST: (&str, &str) = ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01");
/// A job of some seconds of audio takes minutes.
const SLOW: (&str, &str) = ("VERBATIM__FAKE__REAL_TIME_FACTOR", "60");

struct Cluster {
    folder: tempfile::TempDir,
    redis: RedisServer,
    settings: Vec<(String, String)>,
}

impl Cluster {
    fn new() -> Result<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]);
        let mut cluster = Self { folder: tempfile::tempdir()?, redis, settings: Vec::new() };
        let url = cluster.redis.url();
        cluster.set("VERBATIM__REDIS__URL", &url);
        cluster.set("VERBATIM__AUTH__REQUIRED", "false");
        cluster.set("VERBATIM__WORKER__ENGINES", "fake");
        cluster.set("VERBATIM__WORKER__LEASE_SECS", "3");
        Ok(cluster)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    async fn start(&self, command: &str, settings: &[(&str, &str)]) -> Result<Server> {
        self.start_in(self.folder.path(), command, settings).await
    }

    async fn start_in(&self, folder: &Path, command: &str, settings: &[(&str, &str)]) -> Result<Server> {
        let common = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = common.chain(settings.iter().copied()).collect();
        Server::start_node(command, folder, &all).await
    }
}

/// A sound that no other number gives.
fn numbered(number: usize) -> Vec<u8> {
    let mut samples = hello();
    samples.push(i16::try_from(number).expect("a small number"));
    wav(16_000, &samples)
}

#[tokio::test]
async fn a_second_signal_gives_back_at_once_what_is_held() -> Result<()> {
    let cluster = Cluster::new()?;
    let patient = ("VERBATIM__WORKER__DRAIN_SECS", "3600");
    let mut worker = cluster.start("worker", &[SLOW, patient]).await?;
    let api = cluster.start("api", &[]).await?;
    let client = Client::new(api.url());
    let id = client.accepted(hello_times(1), &[]).await?;
    until_status(&client, &id, "processing").await?;
    worker.signal().await?;
    // It drains: it answers nobody and claims nothing more, and goes on with what it holds.
    while reqwest::get(format!("{}/healthz", worker.url())).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let late = client.accepted(numbered(1), &[]).await?;
    ensure!(worker.runs()?, "it drains for an hour");
    ensure!(
        client.get(&format!("/v1/jobs/{id}")).await?["status"] == "processing",
        "it goes on with its job"
    );
    ensure!(client.get(&format!("/v1/jobs/{late}")).await?["status"] == "queued", "it takes no more");
    worker.signal().await?;
    ensure!(worker.ended().await?.success(), "it ends orderly");
    let _another = cluster.start("worker", &[FAST]).await?;
    for id in [id, late] {
        let job = client.ended(&id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "the attempt was not refunded: {job}");
    }
    Ok(())
}

#[tokio::test]
async fn nodes_that_share_nothing_but_redis_and_a_bucket_work_together() -> Result<()> {
    let bucket = TestServer::start().await;
    let mut cluster = Cluster::new()?;
    cluster.set("VERBATIM__S3__BUCKET", BUCKET);
    cluster.set("VERBATIM__S3__ENDPOINT", &bucket.endpoint);
    cluster.set("VERBATIM__S3__PATH_STYLE", "true");
    cluster.set("VERBATIM__S3__ACCESS_KEY_ID", ACCESS_KEY);
    cluster.set("VERBATIM__S3__SECRET_ACCESS_KEY", SECRET);
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    let mut killed = cluster.start_in(folders[0].path(), "worker", &[SLOW]).await?;
    let one = cluster.start_in(folders[1].path(), "api", &[]).await?;
    let other = cluster.start_in(folders[2].path(), "api", &[]).await?;
    let (one, other) = (Client::new(one.url()), Client::new(other.url()));
    let id = one.accepted(hello_times(1), &[]).await?;
    until_status(&other, &id, "processing").await?;
    killed.kill().await?;
    let _rescuer = cluster.start_in(folders[3].path(), "worker", &[FAST]).await?;
    let job = other.ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    ensure!(!one.text(&id).await?.is_empty(), "the transcript comes out of the bucket");
    let left = files(&bucket.bucket())?;
    ensure!(left.iter().any(|name| name.contains("results")), "the result lies in the bucket: {left:?}");
    Ok(())
}

async fn until_status(client: &Client, id: &str, status: &str) -> Result<()> {
    while client.get(&format!("/v1/jobs/{id}")).await?["status"] != status {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The paths of all files below `folder`.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path.to_str().context("a name in UTF-8")?.to_owned());
        }
    }
    Ok(found)
}
