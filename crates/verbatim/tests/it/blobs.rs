//! Audio and results where the job store's word and the blob store's do not agree: a job store that comes back older, a share
//! that is not mounted, a result that is gone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tokio::process::Command;

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

/// A sound that no other number gives.
fn numbered(number: usize) -> Vec<u8> {
    let mut samples = hello();
    samples.push(i16::try_from(number).expect("a small number"));
    wav(16_000, &samples)
}

struct Cluster {
    folder: tempfile::TempDir,
    redis: RedisServer,
}

impl Cluster {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, redis: RedisServer::start(&[]) })
    }

    async fn node(&self, command: &str, folder: &Path, more: &[(&str, &str)]) -> Result<Server> {
        let (mut node, log) = self.listening(command, folder, more).await?;
        node.ready().await.with_context(|| std::fs::read_to_string(log).unwrap_or_default())?;
        Ok(node)
    }

    /// A node as soon as it listens, and its log.
    async fn listening(
        &self,
        command: &str,
        folder: &Path,
        more: &[(&str, &str)],
    ) -> Result<(Server, PathBuf)> {
        let url = self.redis.url();
        let mut settings = vec![
            ("VERBATIM__REDIS__URL", url.as_str()),
            ("VERBATIM__AUTH__REQUIRED", "false"),
            ("VERBATIM__WORKER__ENGINES", "fake"),
            ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.2"),
        ];
        settings.extend(more);
        Server::start_to_listen(command, folder, &settings).await
    }

    fn blobs(&self) -> PathBuf {
        self.folder.path().join("data/blobs")
    }
}

/// Files under a folder, however deep.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

async fn transcript(client: &Client, id: &str) -> Result<(StatusCode, Value)> {
    let answer = client.http.get(format!("{}/v1/jobs/{id}/transcript", client.url)).send().await?;
    Ok((answer.status(), answer.json().await?))
}

#[tokio::test]
async fn a_redis_that_comes_back_from_before_a_completion_has_the_job_done_again() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let folder = cluster.folder.path().to_owned();
    // An API node is ready when a worker was there.
    let mut worker = cluster.node("worker", &folder, &[]).await?;
    let api = cluster.node("api", &folder, &[]).await?;
    worker.terminate().await?;
    let client = Client::new(api.url());
    let id = client.accepted(numbered(1), &[]).await?;
    cluster.redis.save();
    let worker = cluster.node("worker", &folder, &[]).await?;
    let before = client.ended(&id).await?;
    ensure!(before["status"] == "completed", "{before}");
    let text = client.text(&id).await?;

    // As it was before the worker came.
    cluster.redis.kill();
    cluster.redis.restart();
    let mut again = client.get(&format!("/v1/jobs/{id}")).await?;
    ensure!(again["status"] != "failed", "{again}");
    while again["status"] != "completed" {
        ensure!(again["status"] != "failed", "{again}");
        again = client.ended(&id).await?;
    }
    ensure!(client.text(&id).await? == text);
    drop((api, worker));
    Ok(())
}

#[tokio::test]
async fn a_worker_that_does_not_see_the_share_fails_no_job() -> Result<()> {
    let cluster = Cluster::new()?;
    let folder = cluster.folder.path().to_owned();
    let worker = cluster.node("worker", &folder, &[]).await?;
    let api = cluster.node("api", &folder, &[]).await?;
    let elsewhere = tempfile::tempdir()?;
    let (mut lost, log) = cluster.listening("worker", elsewhere.path(), &[]).await?;
    // It waits for the share, and says so.
    let client = Client::new(lost.url());
    let waits = async || -> Result<Value> {
        Ok(client.http.get(format!("{}/readyz", client.url)).send().await?.json().await?)
    };
    while !waits().await?["reason"].as_str().is_some_and(|reason| reason.contains("is the share mounted")) {
        ensure!(lost.runs()?, "it does not wait");
        tokio::task::yield_now().await;
    }
    ensure!(lost.terminate().await?.success() && !std::fs::read_to_string(log)?.contains("ERROR"));
    // And ends with a sentence when it has waited long enough.
    let hasty = [("VERBATIM__SERVER__START_PATIENCE_SECS", "1")];
    let (mut lost, log) = cluster.listening("worker", elsewhere.path(), &hasty).await?;
    let code = lost.ended().await?.code();
    let log = std::fs::read_to_string(log)?;
    let last = log.lines().last().unwrap_or_default();
    ensure!(code == Some(1), "{code:?} {log}");
    ensure!(last.starts_with("error: ") && last.contains("Is the share mounted?"), "{log}");
    ensure!(!elsewhere.path().join("data/blobs").exists(), "it made a store of its own");
    let client = Client::new(api.url());
    for number in 0..5 {
        let job = client.ended(&client.accepted(numbered(number), &[]).await?).await?;
        ensure!(job["status"] == "completed", "{job}");
    }
    drop(worker);
    Ok(())
}

#[tokio::test]
async fn while_the_share_is_away_nothing_is_failed_or_said_to_be_gone() -> Result<()> {
    let cluster = Cluster::new()?;
    let folder = cluster.folder.path().to_owned();
    let short = [("VERBATIM__WORKER__STORAGE_PATIENCE_SECS", "1")];
    let worker = cluster.node("worker", &folder, &short).await?;
    let api = cluster.node("api", &folder, &[]).await?;
    let client = Client::new(api.url());
    let done = client.accepted(numbered(0), &[]).await?;
    client.ended(&done).await?;
    let text = client.text(&done).await?;
    let mut waiting = Vec::new();
    for number in 1..20 {
        waiting.push(client.accepted(numbered(number), &[]).await?);
    }
    let (blobs, away) = (cluster.blobs(), folder.join("away"));
    std::fs::rename(&blobs, &away)?;
    let (status, problem) = transcript(&client, &done).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {problem}");
    let (status, problem) = client.upload(numbered(99), &[]).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {problem}");
    // The worker has noticed, says why, and claims nothing more.
    let ready = async || -> Result<(StatusCode, Value)> {
        let answer = client.http.get(format!("{}/readyz", worker.url())).send().await?;
        Ok((answer.status(), answer.json().await?))
    };
    let (status, told) = ready().await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {told}");
    let reason = told["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("share"), "{told}");
    let metrics = Client::new(worker.url()).metrics().await?;
    ensure!(metrics.get("verbatim_blob_store_lost") == Some(&1.0));
    std::fs::rename(&away, &blobs)?;
    while ready().await?.0 != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    ensure!(client.text(&done).await? == text, "what was done is there again");
    for id in waiting {
        let job = client.ended(&id).await?;
        ensure!(job["status"] == "completed", "{job}");
    }
    Ok(())
}

#[tokio::test]
async fn a_result_that_is_gone_does_not_answer_the_next_upload() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fake = [("VERBATIM__WORKER__ENGINES", "fake"), ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01")];
    let server = Server::start_in(folder.path(), &fake).await?;
    let client = Client::new(server.url());
    let id = client.accepted(numbered(1), &[]).await?;
    client.ended(&id).await?;
    let text = client.text(&id).await?;
    let results = folder.path().join("data/blobs/results");
    for result in files(&results)? {
        std::fs::remove_file(result)?;
    }
    let cached = client.accepted(numbered(1), &[]).await?;
    ensure!(client.get(&format!("/v1/jobs/{cached}")).await?["cached"] == true);
    let (status, problem) = transcript(&client, &cached).await?;
    ensure!(status == StatusCode::GONE && problem["code"] == "result_expired", "{status} {problem}");
    let again = client.accepted(numbered(1), &[]).await?;
    let job = client.ended(&again).await?;
    ensure!(job["status"] == "completed" && job["cached"] == false, "{job}");
    ensure!(client.text(&again).await? == text);
    ensure!(client.metrics().await?.get("verbatim_results_lost_total") == Some(&1.0));
    Ok(())
}

#[tokio::test]
async fn a_result_that_is_gone_answers_one_request_of_an_openai_client_and_no_more() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fake = [("VERBATIM__WORKER__ENGINES", "fake"), ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01")];
    let server = Server::start_in(folder.path(), &fake).await?;
    let client = Client::new(server.url());
    let ask = async || -> Result<(StatusCode, Value)> {
        let file = Part::bytes(numbered(1)).file_name("audio.wav");
        let form = Form::new().text("model", "whisper-1").part("file", file);
        let url = format!("{}/v1/audio/transcriptions", client.url);
        let answer = client.http.post(url).multipart(form).send().await?;
        Ok((answer.status(), answer.json().await?))
    };
    let (status, first) = ask().await?;
    ensure!(status == StatusCode::OK, "{first}");
    for result in files(&folder.path().join("data/blobs/results"))? {
        std::fs::remove_file(result)?;
    }
    let (status, problem) = ask().await?;
    ensure!(status == StatusCode::GONE, "{status} {problem}");
    for origin in ["work done afresh", "its result"] {
        let (status, again) = ask().await?;
        ensure!(status == StatusCode::OK && again["text"] == first["text"], "{origin}: {status} {again}");
    }
    let metrics = client.metrics().await?;
    ensure!(metrics.get("verbatim_results_lost_total") == Some(&1.0));
    ensure!(metrics.get("verbatim_job_attempts_total{outcome=\"completed\"}") == Some(&2.0), "{metrics:?}");
    Ok(())
}

async fn blobs_command(
    arguments: &[&str],
    folder: &Path,
    redis: &RedisServer,
    prefix: &str,
) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_verbatim"))
        .arg("blobs")
        .args(arguments)
        .args(["--data-dir"])
        .arg(folder.join("data"))
        .env("VERBATIM__REDIS__URL", redis.url())
        .env("VERBATIM__REDIS__PREFIX", prefix)
        .current_dir(folder)
        .output()
        .await?;
    let told = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    Ok(told)
}

#[tokio::test]
async fn two_job_stores_in_one_place_leave_each_others_blobs_alone_until_one_is_purged() -> Result<()> {
    let cluster = Cluster::new()?;
    let folder = cluster.folder.path().to_owned();
    let eager = [
        ("VERBATIM__UPKEEP__SWEEP_INTERVAL_SECS", "1"),
        ("VERBATIM__UPKEEP__ORPHAN_AGE_SECS", "0"),
        ("VERBATIM__UPKEEP__DELETE_GRACE_SECS", "0"),
    ];
    let mut worker = cluster.node("worker", &folder, &[]).await?;
    let first = cluster.node("api", &folder, &[]).await?;
    let client = Client::new(first.url());
    let id = client.accepted(numbered(1), &[]).await?;
    client.ended(&id).await?;
    worker.terminate().await?;
    let afresh = [&eager[..], &[("VERBATIM__REDIS__PREFIX", "afresh")]].concat();
    let seconds = cluster.node("worker", &folder, &afresh).await?;
    let second = cluster.node("api", &folder, &afresh).await?;
    let other = Client::new(second.url());
    // An upload that no job owns, of the second store: when it is swept, all that it would sweep is.
    let list = blobs_command(&["list", "--json"], &folder, &cluster.redis, "afresh").await?;
    let stores: Vec<Value> = list.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let id_of = |in_use: bool| -> Result<String> {
        let store = stores.iter().find(|store| store["in_use"] == in_use).context(list.clone())?;
        Ok(store["store"].as_str().context("an id")?.to_owned())
    };
    let (own, others) = (id_of(true)?, id_of(false)?);
    let orphan = cluster.blobs().join("audio").join(&own).join("01ORPHAN000000000000000000");
    std::fs::create_dir_all(orphan.parent().context("a folder")?)?;
    std::fs::write(&orphan, b"x")?;
    while orphan.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (status, told) = transcript(&client, &id).await?;
    ensure!(status == StatusCode::OK, "{told}");

    let purge = ["purge", "--yes", "--store"];
    let refused = blobs_command(&[&purge[..], &[&own]].concat(), &folder, &cluster.redis, "afresh").await;
    ensure!(refused.is_err(), "the one in use was purged");
    let refused = blobs_command(&[&purge[..], &[&others]].concat(), &folder, &cluster.redis, "afresh").await;
    ensure!(refused.is_err(), "one that was in use a moment ago was purged");
    let forced = [&purge[..], &[&others, "--force"]].concat();
    blobs_command(&forced, &folder, &cluster.redis, "afresh").await?;
    ensure!(!list_names(&cluster.blobs())?.iter().any(|name| name.contains(&others)));
    drop((first, other, seconds));
    Ok(())
}

fn list_names(blobs: &Path) -> Result<Vec<String>> {
    let names = files(blobs)?.into_iter().map(|path| path.display().to_string());
    Ok(names.collect())
}
