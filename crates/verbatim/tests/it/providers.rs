//! The binary with an Azure and an OpenAI that are stand-ins of the tests' own: which provider does a job, what is in the
//! books, and what happens when one goes down or the service is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verbatim_standins::{AzureSettings, AzureStandIn, BatchRules, OpenAiSettings, OpenAiStandIn};

use crate::support::bucket::{ACCESS_KEY, BUCKET, SECRET, TestServer};
use crate::support::sound::{hello, hello_times, wav};
use crate::support::{Client, Server};

/// The key of the stand-ins' accounts.
const KEY: &str = "0123456789abcdef-only-for-this-test";
/// More than anybody should log.
const EVERYTHING_LOGGED: (&str, &str) = ("VERBATIM__LOG__FILTER", "trace");

/// An Azure first, at this address, and the fake engine behind it.
fn azure_before_fake(url: &str, more: &str) -> String {
    format!(
        r#"
        [costs]
        currency = "USD"
        [[providers]]
        name = "cloud"
        kind = "azure"
        region = "westus"
        endpoint = "{url}"
        key = "{KEY}"
        price_per_hour = 3.6
        {more}
        [[providers]]
        name = "here"
        kind = "fake"
        priority = 2
        "#
    )
}

async fn azure() -> AzureStandIn {
    AzureStandIn::start(AzureSettings { key: KEY.to_owned(), ..AzureSettings::default() }).await
}

async fn serve(folder: &Path, configuration: &str, settings: &[(&str, &str)]) -> Result<Server> {
    std::fs::write(folder.join("verbatim.toml"), configuration)?;
    Server::start_in(folder, settings).await
}

/// A sound that no other number gives.
fn numbered(number: i16) -> Vec<u8> {
    let mut samples = hello();
    samples.push(number);
    wav(16_000, &samples)
}

async fn done(client: &Client, audio: Vec<u8>, fields: &[(&str, &str)]) -> Result<Value> {
    let id = client.accepted(audio, fields).await?;
    let job = client.ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    Ok(job)
}

#[tokio::test]
async fn the_first_provider_does_the_work_and_the_next_one_while_it_is_down() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = azure().await;
    let server = serve(folder.path(), &azure_before_fake(&azure.url(), ""), &[EVERYTHING_LOGGED]).await?;
    let client = Client::new(server.url());
    let job = done(&client, numbered(0), &[]).await?;
    ensure!(job["engine"] == "azure" && job["model"] == "azure-speech", "{job}");
    azure.go_down().await;
    for number in 1..8 {
        let job = done(&client, numbered(number), &[]).await?;
        ensure!(job["engine"] == "fake" && job["attempt"] == 1, "{job}");
    }
    azure.come_back().await;
    let mut number = 100;
    while done(&client, numbered(number), &[]).await?["engine"] != "azure" {
        number += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(azure.violations().is_empty(), "{:?}", azure.violations());
    ensure!(azure.tokens().len() == 1, "one token serves all");

    let stats = client.get("/v1/stats").await?;
    let cloud = stats["providers"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "cloud"));
    ensure!(cloud.is_some(), "{stats}");
    let report = report(folder.path())?;
    ensure!(report.contains("cloud") && report.contains("here"), "{report}");
    let log = std::fs::read_to_string(folder.path().join("serve.log"))?;
    ensure!(log.contains("TRACE"), "everything is logged");
    ensure!(!log.contains(KEY), "the key is in the log");
    for token in azure.tokens() {
        ensure!(!log.contains(&token.value), "a token is in the log");
    }
    Ok(())
}

fn report(folder: &Path) -> Result<String> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_verbatim"))
        .args(["cost", "report", "--by", "provider", "--data-dir"])
        .arg(folder.join("data"))
        .current_dir(folder)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn who_names_an_engine_gets_it_and_a_paused_one_waits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = azure().await;
    let server = serve(folder.path(), &azure_before_fake(&azure.url(), ""), &[]).await?;
    let client = Client::new(server.url());
    let job = done(&client, numbered(1), &[("engine", "fake")]).await?;
    ensure!(job["engine"] == "fake", "{job}");
    let (status, problem) = client.upload(numbered(2), &[("engine", "whisper")]).await?;
    ensure!(
        status == 400 && problem["detail"].as_str().is_some_and(|text| text.contains("azure")),
        "{problem}"
    );
    let pause = format!("{}/v1/admin/providers/cloud", client.url);
    let told = client.http.post(format!("{pause}/pause")).send().await?;
    ensure!(told.status().is_success(), "{}", told.text().await?);
    // The pool looks at a provider's state twice a second at most; a call that it forbids is not made in any case.
    let job = done(&client, numbered(3), &[]).await?;
    ensure!(job["engine"] == "fake", "a paused provider is not asked: {job}");
    let waits = client.accepted(numbered(4), &[("engine", "azure")]).await?;
    client.http.post(format!("{pause}/resume")).send().await?.error_for_status()?;
    let job = client.ended(&waits).await?;
    ensure!(job["engine"] == "azure", "{job}");
    let unknown = client.http.post(format!("{}/v1/admin/providers/none/pause", client.url)).send().await?;
    ensure!(unknown.status() == 404, "{}", unknown.status());
    Ok(())
}

#[tokio::test]
async fn a_provider_over_its_budget_is_left_for_the_next() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = azure().await;
    // A second costs 0.001, the sample some ten of them: there is room for one.
    let configuration = azure_before_fake(&azure.url(), "daily_budget = 0.02");
    let server = serve(folder.path(), &configuration, &[]).await?;
    let client = Client::new(server.url());
    let first = done(&client, numbered(1), &[]).await?;
    ensure!(first["engine"] == "azure", "{first}");
    for number in 2..5 {
        let job = done(&client, numbered(number), &[]).await?;
        ensure!(number == 2 || job["engine"] == "fake", "{job}");
    }
    Ok(())
}

#[tokio::test]
async fn an_openai_compatible_service_is_a_provider() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let openai =
        OpenAiStandIn::start(OpenAiSettings { key: Some(KEY.to_owned()), ..OpenAiSettings::default() }).await;
    let configuration = format!(
        "[[providers]]\nname = 'groq'\nkind = 'openai'\nendpoint = '{}'\nkey = '{KEY}'\n\
         models = {{ large = 'whisper-1' }}",
        openai.url()
    );
    let server = serve(folder.path(), &configuration, &[]).await?;
    let job = done(&Client::new(server.url()), hello_times(1), &[("model", "large")]).await?;
    ensure!(job["engine"] == "openai" && job["model"] == "large", "{job}");
    ensure!(openai.violations().is_empty(), "{:?}", openai.violations());
    Ok(())
}

#[tokio::test]
async fn a_batch_at_azure_is_gone_on_with_after_a_kill_and_never_submitted_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (azure, bucket) = (azure().await, TestServer::start().await);
    azure.batches_go(BatchRules { held: true, ..BatchRules::default() });
    let settings = [
        ("VERBATIM__S3__BUCKET", BUCKET),
        ("VERBATIM__S3__ENDPOINT", bucket.endpoint.as_str()),
        ("VERBATIM__S3__PATH_STYLE", "true"),
        ("VERBATIM__S3__ACCESS_KEY_ID", ACCESS_KEY),
        ("VERBATIM__S3__SECRET_ACCESS_KEY", SECRET),
    ];
    let configuration = azure_before_fake(&azure.url(), "mode = 'batch'\nbatch_above_secs = 1");
    let mut server = serve(folder.path(), &configuration, &settings).await?;
    let id = Client::new(server.url()).accepted(hello_times(1), &[]).await?;
    until_polled(&azure, 1).await;
    // What is polled was reported first, and reports take a moment to reach the store.
    let polls = polls(&azure);
    until_polled(&azure, polls + 2).await;
    server.kill().await?;
    let server = Server::start_in(folder.path(), &settings).await?;
    azure.batches_go(BatchRules { held: false, unfinished_polls: 0, ..BatchRules::default() });
    let job = Client::new(server.url()).ended(&id).await?;
    ensure!(job["status"] == "completed" && job["engine"] == "azure", "{job}");
    ensure!(submissions(&azure) == 1, "it was submitted {} times", submissions(&azure));
    ensure!(azure.violations().is_empty(), "{:?}", azure.violations());
    Ok(())
}

fn submissions(azure: &AzureStandIn) -> usize {
    azure.requests().iter().filter(|request| request.path.ends_with(":submit")).count()
}

fn polls(azure: &AzureStandIn) -> usize {
    let polls = |path: &str| path.starts_with("/speechtotext/transcriptions/") && !path.ends_with("/files");
    azure.requests().iter().filter(|request| polls(&request.path)).count()
}

async fn until_polled(azure: &AzureStandIn, times: usize) {
    while polls(azure) < times {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_provider_that_cannot_work_is_named_at_the_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (configuration, what) in [
        ("[[providers]]\nname = 'a'\nkind = 'azure'\nregion = 'westus'", "key_env"),
        ("[[providers]]\nname = 'a'\nkind = 'azure'\nregion = 'west us'\nkey = 'k'", "region"),
        (
            "[[providers]]\nname = 'a'\nkind = 'azure'\nregion = 'westus'\nkey_env = 'NO_SUCH_KEY'",
            "NO_SUCH_KEY",
        ),
        ("[[providers]]\nname = 'a'\nkind = 'openai'\nendpoint = 'nowhere'", "base_url"),
    ] {
        let refused = serve(folder.path(), configuration, &[]).await.err().context("it started")?;
        ensure!(format!("{refused:#}").contains(what), "{refused:#}");
    }
    Ok(())
}
