//! Caps of tenants, over both stores: the runbook's cure for a flood, as an operator runs it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::process::Command;

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

/// Jobs that run at once; each goes on until it is deleted.
const SLOTS: usize = 4;
const SETTINGS: [(&str, &str); 6] = [
    ("VERBATIM__AUTH__REQUIRED", "true"),
    ("VERBATIM__WORKER__ENGINES", "fake"),
    ("VERBATIM__WORKER__CONCURRENCY", "4"),
    ("VERBATIM__WORKER__CLAIM_AHEAD", "4"),
    ("VERBATIM__WORKER__RENEW_SECS", "1"),
    ("VERBATIM__FAKE__REAL_TIME_FACTOR", "1000"),
];

/// A service, and where its commands find it.
struct Service {
    folder: tempfile::TempDir,
    redis: Option<RedisServer>,
    nodes: Vec<Server>,
}

impl Service {
    async fn on_sqlite() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Server::start_in(folder.path(), &SETTINGS).await?;
        Ok(Self { folder, redis: None, nodes: vec![server] })
    }

    async fn on_redis() -> Result<Self> {
        let (folder, redis) = (tempfile::tempdir()?, RedisServer::start(&[]));
        let url = redis.url();
        let settings = [&SETTINGS[..], &[("VERBATIM__REDIS__URL", url.as_str())]].concat();
        let worker = Server::start_node("worker", folder.path(), &settings).await?;
        let api = Server::start_node("api", folder.path(), &settings).await?;
        Ok(Self { folder, redis: Some(redis), nodes: vec![api, worker] })
    }

    /// What a command prints that must succeed.
    async fn command(&self, arguments: &[&str]) -> Result<String> {
        let folder: &Path = self.folder.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
        command.args(arguments).arg("--data-dir").arg(folder.join("data")).current_dir(folder);
        if let Some(redis) = &self.redis {
            command.env("VERBATIM__REDIS__URL", redis.url());
        }
        let output = command.kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A client with a key of its own.
    async fn holder(&self, arguments: &[&str]) -> Result<Client> {
        let key = self.command(&[&["keys", "create"], arguments].concat()).await?;
        let bearer = HeaderValue::from_str(&format!("Bearer {key}"))?;
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let http = reqwest::Client::builder().default_headers(headers).build()?;
        Ok(Client { url: self.nodes[0].url().to_owned(), http })
    }

    async fn tenant(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.command(&["tenants", "show", name, "--json"]).await?)?)
    }

    /// Waits until so many jobs of the tenant run and wait.
    async fn until(&self, name: &str, running: usize, queued: usize) -> Result<()> {
        let reached = async {
            loop {
                let tenant = self.tenant(name).await?;
                if tenant["running"] == running && tenant["queued"] == queued {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), reached).await;
        waited.with_context(|| format!("{name} never had {running} running and {queued} queued"))?
    }
}

/// A sound that no other number gives.
fn numbered(number: usize) -> Vec<u8> {
    let mut samples = hello();
    samples.push(i16::try_from(number).expect("a small number"));
    wav(16_000, &samples)
}

async fn uploads(client: &Client, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for number in numbers {
        ids.push(client.accepted(numbered(number), &[]).await?);
    }
    Ok(ids)
}

async fn delete(client: &Client, ids: &[String]) -> Result<()> {
    for id in ids {
        client.http.delete(format!("{}/v1/jobs/{id}", client.url)).send().await?.error_for_status()?;
    }
    Ok(())
}

/// The ids of those that run, of these.
async fn running(client: &Client, ids: &[String]) -> Result<Vec<String>> {
    let mut running = Vec::new();
    for id in ids {
        if client.get(&format!("/v1/jobs/{id}")).await?["status"] == "processing" {
            running.push(id.clone());
        }
    }
    Ok(running)
}

/// One key of a tenant floods; the tenant is capped by a command beside the service. No other key of the tenant lifts that,
/// other tenants get what is free, and lifting it takes no submission either.
async fn a_flood_is_cured(service: &Service) -> Result<()> {
    let flood = service.holder(&["--tenant", "acme"]).await?;
    let quiet = service.holder(&["--tenant", "acme"]).await?;
    let other = service.holder(&["--tenant", "other"]).await?;
    let flooded = uploads(&flood, 0..10).await?;
    service.until("acme", SLOTS, 6).await?;
    let others = uploads(&other, 20..23).await?;
    service.until("other", 0, 3).await?;

    service.command(&["tenants", "cap", "acme", "--max-running", "1", "--max-queued", "7"]).await?;
    let told = service.tenant("acme").await?;
    ensure!(told["in_force"]["max_running"]["set_by"][0] == "tenant", "{told}");
    // In force: the key that has nothing to do with the flood is told so.
    loop {
        let stats = quiet.get("/v1/stats").await?;
        if stats["jobs"]["max_running"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    delete(&flood, &running(&flood, &flooded).await?).await?;
    service.until("other", 3, 0).await?;
    service.until("acme", 1, 5).await?;

    // Another key's submission comes without any cap, and a place becomes free: it is not the capped tenant's.
    uploads(&quiet, 30..31).await?;
    service.until("acme", 1, 6).await?;
    delete(&other, &others[..1]).await?;
    service.until("other", 2, 0).await?;
    uploads(&other, 23..24).await?;
    service.until("other", 3, 0).await?;
    service.until("acme", 1, 6).await?;
    uploads(&quiet, 31..32).await?;
    for client in [&flood, &quiet] {
        let (status, problem) = client.upload(numbered(32), &[]).await?;
        ensure!(status == StatusCode::TOO_MANY_REQUESTS, "one too many is answered with {status}: {problem}");
    }

    service.command(&["tenants", "cap", "acme", "--max-running", "none"]).await?;
    delete(&other, &others[1..]).await?;
    service.until("acme", 3, 5).await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_is_cured_by_a_cap_that_no_other_key_lifts() -> Result<()> {
    a_flood_is_cured(&Service::on_sqlite().await?).await
}

#[tokio::test]
async fn a_flood_of_a_cluster_is_cured_by_a_cap_that_no_other_key_lifts() -> Result<()> {
    a_flood_is_cured(&Service::on_redis().await?).await
}

#[tokio::test]
async fn a_tenant_that_never_was_is_not_capped_and_a_cap_of_nothing_is_refused() -> Result<()> {
    let service = Service::on_sqlite().await?;
    ensure!(service.command(&["tenants", "list", "--json"]).await? == "[]", "somebody was made up");
    service.holder(&["--tenant", "acme"]).await?;
    for arguments in [
        &["tenants", "cap", "nobody", "--max-running", "1"][..],
        &["tenants", "show", "nobody"],
        &["tenants", "cap", "acme"],
        &["tenants", "cap", "acme", "--max-running", "0"],
    ] {
        ensure!(service.command(arguments).await.is_err(), "{arguments:?} succeeds");
    }
    let acme = service.tenant("acme").await?;
    ensure!(acme["in_force"]["max_running"]["limit"].is_null(), "{acme}");
    Ok(())
}
