//! Keys: made and revoked beside a running server; each tenant sees its own jobs and nobody else's.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio::process::Command;

use crate::support::sound::hello_times;
use crate::support::{Client, Server};

const SETTINGS: [(&str, &str); 2] =
    [("VERBATIM__AUTH__REQUIRED", "true"), ("VERBATIM__WORKER__ENGINES", "fake")];

async fn keys(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command.arg("keys").args(arguments).arg("--data-dir").arg(folder.join("data")).current_dir(folder);
    Ok(command.kill_on_drop(true).output().await?)
}

/// A fresh key, as `verbatim keys create` prints it.
async fn key(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = keys(folder, &[&["create"], arguments].concat()).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A client that presents this key.
fn holder(url: &str, key: &str) -> Result<Client> {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))?)]);
    let http = reqwest::Client::builder().default_headers(headers).build()?;
    Ok(Client { url: url.to_owned(), http })
}

async fn status(client: &Client, path: &str) -> Result<StatusCode> {
    Ok(client.http.get(format!("{}{path}", client.url)).send().await?.status())
}

#[tokio::test]
async fn each_tenant_sees_its_own_jobs_and_a_revoked_key_opens_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_in(folder.path(), &SETTINGS).await?;
    let stranger = Client::new(server.url());
    let (refused, problem) = stranger.upload(hello_times(1), &[]).await?;
    ensure!(refused == StatusCode::UNAUTHORIZED && problem["code"] == "unauthenticated", "{problem}");

    let acme_key = key(folder.path(), &["--tenant", "acme"]).await?;
    let acme = holder(server.url(), &acme_key)?;
    let other = holder(server.url(), &key(folder.path(), &["--tenant", "other"]).await?)?;
    let mut jobs = Vec::new();
    for client in [&acme, &other] {
        let (status, job) = client.upload(hello_times(1), &[]).await?;
        ensure!(
            status == StatusCode::ACCEPTED && job["deduplicated"] == false && job["cached"] == false,
            "{job}"
        );
        let id = job["id"].as_str().context("a job has an id")?.to_owned();
        ensure!(client.ended(&id).await?["status"] == "completed", "the job of {id}");
        jobs.push(id);
    }
    for (client, own, others) in [(&acme, &jobs[0], &jobs[1]), (&other, &jobs[1], &jobs[0])] {
        let list = client.get("/v1/jobs").await?;
        let listed = list["data"].as_array().context("a list")?;
        ensure!(listed.len() == 1 && listed[0]["id"] == own.as_str(), "{list}");
        for path in [format!("/v1/jobs/{others}"), format!("/v1/jobs/{others}/transcript")] {
            ensure!(status(client, &path).await? == StatusCode::NOT_FOUND, "{path}");
        }
    }
    ensure!(status(&acme, "/v1/admin/dead-letters").await? == StatusCode::FORBIDDEN, "no admin");

    let listed = keys(folder.path(), &["list", "--tenant", "acme", "--json"]).await?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let id = listed[0]["id"].as_str().context("the key is listed")?;
    let secret = acme_key.splitn(3, '_').nth(2).context("a key has two halves")?;
    ensure!(!listed.to_string().contains(secret), "the list tells the secret");
    ensure!(keys(folder.path(), &["revoke", id]).await?.status.success(), "{id} can be revoked");
    ensure!(status(&acme, "/v1/jobs").await? == StatusCode::UNAUTHORIZED, "a revoked key opens something");
    ensure!(status(&other, "/v1/jobs").await? == StatusCode::OK, "another key went with it");
    let log = std::fs::read_to_string(folder.path().join("serve.log"))?;
    ensure!(!log.contains(secret), "the log tells the secret");
    Ok(())
}
