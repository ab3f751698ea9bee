//! Nodes that start before their stores are there, and nodes that can never work with theirs.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::redis_server::RedisServer;
use crate::support::sound::hello_times;
use crate::support::{Client, Server};

fn settings<'s>(url: &'s str, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let common = [
        ("VERBATIM__REDIS__URL", url),
        ("VERBATIM__AUTH__REQUIRED", "false"),
        ("VERBATIM__WORKER__ENGINES", "fake"),
        ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01"),
    ];
    common.into_iter().chain(more.iter().copied()).collect()
}

/// What a node says while it waits: it lives, it is not ready because of `what`, and whoever wants something is to come again.
async fn says_what_it_waits_for(node: &Server, what: &str) -> Result<()> {
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", node.url())).await?;
        let again = answer.headers().contains_key(reqwest::header::RETRY_AFTER);
        let status = answer.status();
        anyhow::Ok((status, again, answer.json::<Value>().await?))
    };
    ensure!(get("/healthz").await?.0 == StatusCode::OK, "it does not live");
    // Until the first try has failed it may still say that models load.
    loop {
        let (status, again, body) = get("/readyz").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE && again, "/readyz: {status} {body}");
        if body["reason"].as_str().is_some_and(|reason| reason.contains(what)) {
            break;
        }
    }
    let (status, again, body) = get("/v1/jobs").await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && again, "/v1/jobs: {status} {body}");
    ensure!(body["detail"].as_str().is_some_and(|detail| detail.contains(what)), "{body}");
    Ok(())
}

async fn begins_when_redis_does(
    away: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut redis = RedisServer::start(&[]);
    away(&mut redis);
    let url = redis.url();
    let settings = settings(&url, &[]);
    let (mut api, _) = Server::start_to_listen("api", folder.path(), &settings).await?;
    let (mut worker, log) = Server::start_to_listen("worker", folder.path(), &settings).await?;
    for node in [&api, &worker] {
        says_what_it_waits_for(node, "job store").await?;
    }
    ensure!(std::fs::read_to_string(log)?.contains("waiting"), "the log does not say that it waits");
    back(&mut redis);
    api.ready().await?;
    worker.ready().await?;
    let client = Client::new(api.url());
    let id = client.accepted(hello_times(1), &[]).await?;
    let job = client.ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    Ok(())
}

#[tokio::test]
async fn nodes_wait_for_a_redis_that_is_not_there_yet() -> Result<()> {
    begins_when_redis_does(RedisServer::kill, RedisServer::restart).await
}

#[tokio::test]
async fn nodes_wait_for_a_redis_that_hangs() -> Result<()> {
    begins_when_redis_does(|redis| redis.freeze(), |redis| redis.thaw()).await
}

#[tokio::test]
async fn a_node_waits_for_its_bucket_and_stops_when_it_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = RedisServer::start(&[]);
    let bucket = [
        ("VERBATIM__S3__BUCKET", "b"),
        ("VERBATIM__S3__ENDPOINT", "http://127.0.0.1:1"),
        ("VERBATIM__S3__ACCESS_KEY_ID", "id"),
        ("VERBATIM__S3__SECRET_ACCESS_KEY", "key"),
    ];
    let url = redis.url();
    let (mut node, _) = Server::start_to_listen("worker", folder.path(), &settings(&url, &bucket)).await?;
    says_what_it_waits_for(&node, "audio and results").await?;
    ensure!(node.terminate().await?.success(), "it did not stop as it should");
    Ok(())
}

/// Starts a node that must end by itself, without waiting; returns its log.
async fn ends_at_once(folder: &Path, url: &str, more: &[(&str, &str)]) -> Result<String> {
    let (mut node, log) = Server::start_to_listen("api", folder, &settings(url, more)).await?;
    let code = node.ended().await?.code().context("it ended by a signal")?;
    let log = std::fs::read_to_string(log)?;
    ensure!(code == 1 && !log.contains("waiting"), "{code}: {log}");
    Ok(log)
}

#[tokio::test]
async fn what_waiting_does_not_cure_ends_a_start_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let locked = RedisServer::start(&["--requirepass", "open sesame"]);
    let wrong = locked.url().replacen("redis://", "redis://:guess@", 1);
    let log = ends_at_once(folder.path(), &wrong, &[]).await?;
    ensure!(log.contains("login") && !log.contains("guess"), "{log}");
    let evicting = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let log = ends_at_once(folder.path(), &evicting.url(), &[]).await?;
    ensure!(log.contains("maxmemory-policy noeviction"), "{log}");
    let nobody = [("VERBATIM__SERVER__START_PATIENCE_SECS", "0")];
    let log = ends_at_once(folder.path(), "redis://127.0.0.1:1", &nobody).await?;
    ensure!(log.contains("cannot be reached"), "{log}");
    Ok(())
}

#[tokio::test]
async fn workers_announce_themselves_at_once_to_a_redis_that_came_back_empty() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut redis = RedisServer::start(&[]);
    let url = redis.url();
    let settings = settings(&url, &[]);
    let worker = Server::start_node("worker", folder.path(), &settings).await?;
    let api = Server::start_node("api", folder.path(), &settings).await?;
    let job = async |client: &Client| {
        let id = loop {
            match client.accepted(hello_times(1), &[]).await {
                Ok(id) => break id,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        client.ended(&id).await
    };
    // The worker has announced itself, and would do it again in a minute.
    job(&Client::new(api.url())).await?;
    redis.kill();
    redis.restart();
    // A node that knows nothing yet takes work only once it has heard of a worker.
    let fresh = Server::start_node("api", folder.path(), &settings).await?;
    let ended = tokio::time::timeout(Duration::from_secs(30), job(&Client::new(fresh.url()))).await;
    ensure!(ended.context("no worker has announced itself")??["status"] == "completed");
    let metrics = Client::new(worker.url());
    while metrics.metrics().await?.get("verbatim_store_replaced_total") != Some(&1.0) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// With few file descriptors, connections of one client leave some for the service's own files and for the next client.
#[tokio::test]
async fn half_open_connections_of_one_client_do_not_take_every_file_descriptor() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 200; exec \"$0\" serve --listen 127.0.0.1:0 --data-dir \"$1\"",
            env!("CARGO_BIN_EXE_verbatim"),
        ])
        .arg(folder.path())
        .envs([("VERBATIM__WORKER__ENGINES", "fake"), ("VERBATIM__LOG__FILTER", "error")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(node.stdout.take().context("its output")?).lines();
    let said = lines.next_line().await?.context("it says where it listens")?;
    let address: SocketAddr = said.rsplit('/').next().context("an address")?.parse()?;
    let mut half_open = Vec::new();
    for _ in 0..300 {
        let mut connection = TcpStream::connect(address).await?;
        // One that was refused may be closed by now.
        let _ = connection.write_all(b"GET /v1/jobs HTTP/1.1\r\nHost: loc").await;
        half_open.push(connection);
    }
    let other = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 2])).build()?;
    let answer =
        other.get(format!("http://{address}/healthz")).timeout(Duration::from_secs(10)).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    drop(half_open);
    Ok(())
}
