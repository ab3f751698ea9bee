//! Traces, as a collector of the test's own gets them from real services: one leads from an upload to its result, in one
//! process and across a cluster; a collector that is away is nobody's problem; nothing leaves that is a client's own.

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::collector::{Collector, Exported};
use crate::support::redis_server::RedisServer;
use crate::support::sound::hello_times;
use crate::support::{Client, Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const FAKE: (&str, &str) = ("VERBATIM__WORKER__ENGINES", "fake");
const ENDPOINT: &str = "VERBATIM__TRACING__OTLP_ENDPOINT";
/// Every attribute that may leave the house.
const ATTRIBUTES: [&str; 13] = [
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "job.attempt",
    "job.engine",
    "job.id",
    "job.model",
    "job.outcome",
    "provider.model",
    "provider.name",
    "submission.id",
    "submission.outcome",
];

/// Uploads a file within the trace of [`CALLER`], recorded or not, and returns the job's id.
async fn submit_within_trace(client: &Client, flags: &str) -> Result<String> {
    let form = Form::new().part("file", Part::bytes(hello_times(1)).file_name("audio"));
    let request = client.http.post(format!("{}/v1/jobs", client.url)).multipart(form);
    let traced = request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"));
    let job: Value = traced.send().await?.error_for_status()?.json().await?;
    Ok(job["id"].as_str().context("a job has an id")?.to_owned())
}

/// The same, and the wait for the job's end.
async fn upload_within_trace(client: &Client, flags: &str) -> Result<()> {
    let id = submit_within_trace(client, flags).await?;
    let job = client.ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    Ok(())
}

/// The spans of one trace.
struct Trace(Vec<Exported>);

impl Trace {
    fn of(collector: &Collector, trace: &str) -> Self {
        Self(collector.spans().into_iter().filter(|span| span.trace == trace).collect())
    }

    /// The only span of this name.
    fn one(&self, name: &str) -> Result<&Exported> {
        let mut found = self.0.iter().filter(|span| span.name == name);
        let one = found.next().with_context(|| format!("no `{name}` in {:?}", self.0))?;
        ensure!(found.next().is_none(), "more than one `{name}`: {:?}", self.0);
        Ok(one)
    }

    /// The only span of this name, which must lie directly below `parent`.
    fn below(&self, parent: &str, name: &str) -> Result<&Exported> {
        let (above, span) = (self.one(parent)?, self.one(name)?);
        ensure!(span.parent == above.id, "`{name}` is not below `{parent}`: {span:?}");
        Ok(span)
    }

    /// What every job's way leaves behind, from the request to the result.
    fn check(&self) -> Result<()> {
        let request = self.one("POST /v1/jobs")?;
        ensure!(request.parent == CALLER && request.kind == SpanKind::Server, "{request:?}");
        ensure!(request.attribute("http.request.method")? == "POST", "{request:?}");
        ensure!(request.attribute("http.route")? == "/v1/jobs", "{request:?}");
        ensure!(request.attribute("http.response.status_code")? == "202", "{request:?}");
        let submit = self.below("POST /v1/jobs", "submit")?;
        ensure!(submit.kind == SpanKind::Producer, "{submit:?}");
        ensure!(submit.attribute("submission.outcome")? == "new", "{submit:?}");
        let attempt = self.below("submit", "attempt")?;
        ensure!(attempt.kind == SpanKind::Consumer, "{attempt:?}");
        ensure!(attempt.attribute("job.id")? == submit.attribute("job.id")?, "{attempt:?}, {submit:?}");
        for (name, value) in [
            ("job.attempt", "1"),
            ("job.outcome", "completed"),
            ("job.engine", "fake"),
            ("job.model", "fake"),
        ] {
            ensure!(attempt.attribute(name)? == value, "{attempt:?}");
        }
        for stage in ["fetch", "decode", "transcribe", "store", "finish"] {
            self.below("attempt", stage)?;
        }
        let call = self.below("transcribe", "provider call")?;
        ensure!(call.attribute("provider.name")? == "fake", "{call:?}");
        ensure!(call.attribute("provider.model")? == "fake", "{call:?}");
        ensure!(!self.0.iter().any(|span| span.failed), "nothing failed: {:?}", self.0);
        Ok(())
    }
}

#[tokio::test]
async fn one_trace_leads_from_an_upload_to_its_result() -> Result<()> {
    let collector = Collector::start().await?;
    let mut server = Server::start(&[FAKE, (ENDPOINT, collector.url())]).await?;
    upload_within_trace(&Client::new(server.url()), "01").await?;
    ensure!(server.terminate().await?.success(), "it ends orderly");
    let trace = Trace::of(&collector, TRACE);
    trace.check()?;
    let attempt = trace.one("attempt")?;
    ensure!(attempt.resource["service.name"] == "verbatim", "{attempt:?}");
    ensure!(attempt.resource["service.version"] == env!("CARGO_PKG_VERSION"), "{attempt:?}");
    ensure!(attempt.resource["verbatim.role"] == "serve", "{attempt:?}");
    ensure!(!attempt.resource["service.instance.id"].is_empty(), "{attempt:?}");
    // The client's other requests named no parent, and health checks are no traces.
    let others: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != TRACE).collect();
    ensure!(!others.is_empty(), "the job was asked for");
    ensure!(
        others.iter().all(|span| span.name == "GET /v1/jobs/{id}" && span.parent.is_empty()),
        "{others:?}"
    );
    Ok(())
}

#[tokio::test]
async fn one_trace_leads_through_the_queue_to_another_process() -> Result<()> {
    let collector = Collector::start().await?;
    let (folder, redis) = (tempfile::tempdir()?, RedisServer::start(&[]));
    let url = redis.url();
    let settings = [
        FAKE,
        (ENDPOINT, collector.url()),
        ("VERBATIM__REDIS__URL", url.as_str()),
        ("VERBATIM__AUTH__REQUIRED", "false"),
    ];
    let mut worker = Server::start_node("worker", folder.path(), &settings).await?;
    let mut api = Server::start_node("api", folder.path(), &settings).await?;
    upload_within_trace(&Client::new(api.url()), "01").await?;
    for node in [&mut api, &mut worker] {
        ensure!(node.terminate().await?.success(), "it ends orderly");
    }
    let trace = Trace::of(&collector, TRACE);
    trace.check()?;
    let (submit, attempt) = (trace.one("submit")?, trace.one("attempt")?);
    ensure!(submit.resource["verbatim.role"] == "api", "{submit:?}");
    ensure!(attempt.resource["verbatim.role"] == "worker", "{attempt:?}");
    let instance = "service.instance.id";
    ensure!(submit.resource[instance] != attempt.resource[instance], "{submit:?}, {attempt:?}");
    Ok(())
}

#[tokio::test]
async fn whoever_begins_a_trace_decides_whether_it_is_recorded() -> Result<()> {
    for (ratio, flags, recorded) in [("0", "01", true), ("1", "00", false)] {
        let collector = Collector::start().await?;
        let settings = [FAKE, (ENDPOINT, collector.url()), ("VERBATIM__TRACING__SAMPLE_RATIO", ratio)];
        let mut server = Server::start(&settings).await?;
        upload_within_trace(&Client::new(server.url()), flags).await?;
        ensure!(server.terminate().await?.success(), "it ends orderly");
        let (ours, others): (Vec<_>, Vec<_>) =
            collector.spans().into_iter().partition(|span| span.trace == TRACE);
        if recorded {
            Trace(ours).check()?;
        } else {
            ensure!(ours.is_empty(), "the caller does not record its trace: {ours:?}");
        }
        ensure!(others.is_empty() == (ratio == "0"), "of what begins here, {ratio}: {others:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_job_keeps_its_trace_over_a_restart_and_a_failed_attempt_says_why() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = tempfile::tempdir()?;
    let (endpoint, idle) = ((ENDPOINT, collector.url()), ("VERBATIM__WORKER__ENABLED", "false"));
    let mut server = Server::start_in(folder.path(), &[FAKE, endpoint, idle]).await?;
    let id = submit_within_trace(&Client::new(server.url()), "01").await?;
    ensure!(server.terminate().await?.success(), "it ends orderly");
    std::fs::remove_dir_all(folder.path().join("data/blobs/audio"))?;
    let once = ("VERBATIM__QUEUE__MAX_ATTEMPTS", "1");
    let mut server = Server::start_in(folder.path(), &[FAKE, endpoint, once]).await?;
    let job = Client::new(server.url()).ended(&id).await?;
    ensure!(job["status"] == "failed", "its audio is gone: {job}");
    ensure!(server.terminate().await?.success(), "it ends orderly");
    let trace = Trace::of(&collector, TRACE);
    let attempt = trace.below("submit", "attempt")?;
    ensure!(attempt.failed && attempt.attribute("error.type")? == "audio_missing", "{attempt:?}");
    ensure!(attempt.attribute("job.outcome")? == "failed", "{attempt:?}");
    trace.below("attempt", "fetch")?;
    ensure!(trace.one("decode").is_err(), "it got no further: {:?}", trace.0);
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_is_nobodys_problem() -> Result<()> {
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    // Connections get through to it, and no answer ever comes.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    for collector in [gone, silent.local_addr()?] {
        let folder = tempfile::tempdir()?;
        let endpoint = format!("http://{collector}");
        let mut server = Server::start_in(folder.path(), &[FAKE, (ENDPOINT, &endpoint)]).await?;
        upload_within_trace(&Client::new(server.url()), "01").await?;
        ensure!(server.terminate().await?.success(), "it ends orderly");
        let log = std::fs::read_to_string(folder.path().join("serve.log"))?;
        ensure!(log.matches("traces do not reach their collector").count() <= 1, "{log}");
        ensure!(
            log.contains("traces do not reach") || log.contains("the last spans"),
            "it is said once: {log}"
        );
        ensure!(!log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_of_a_clients_own_is_exported() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = tempfile::tempdir()?;
    let settings = [FAKE, (ENDPOINT, collector.url()), ("VERBATIM__AUTH__REQUIRED", "true")];
    let mut server = Server::start_in(folder.path(), &settings).await?;
    let key = key(folder.path()).await?;
    let client = Client::new(server.url());
    let form = Form::new()
        .text("prompt", "Rumpelstiltskin")
        .text("metadata", r#"{"note": "for the board only"}"#)
        .part("file", Part::bytes(hello_times(1)).file_name("confidential-interview.wav"));
    let url = format!("{}/v1/jobs?wait=20", client.url);
    let upload = client.http.post(url).bearer_auth(&key).multipart(form);
    let job: Value = upload.send().await?.error_for_status()?.json().await?;
    ensure!(job["status"] == "completed", "{job}");
    let path = format!("{}/v1/jobs/{}/transcript?format=text", client.url, job["id"].as_str().context("id")?);
    let words = client.http.get(path).bearer_auth(&key).send().await?.error_for_status()?.text().await?;
    let words = words.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    ensure!(words.contains(' '), "{words}");
    // Requests that fail have no more to tell.
    client.http.get(format!("{}/v1/jobs/not-an-id?secret=hush", client.url)).bearer_auth(&key).send().await?;
    client.http.get(format!("{}/nowhere/hush", client.url)).bearer_auth("not-a-key-hush").send().await?;
    ensure!(server.terminate().await?.success(), "it ends orderly");

    let spans = collector.spans();
    ensure!(spans.iter().any(|span| span.name == "attempt"), "{spans:?}");
    ensure!(spans.iter().any(|span| span.name == "GET /v1/jobs/{id}/transcript"), "{spans:?}");
    ensure!(spans.iter().any(|span| span.name == "GET"), "a request without a route: {spans:?}");
    let own = [
        "Rumpelstiltskin",
        "for the board",
        "confidential",
        "wait",
        "hush",
        "127.0.0.1",
        "acme",
        &key,
        &words,
    ];
    for span in &spans {
        ensure!(!own.iter().any(|own| span.whole.contains(own)), "{}", span.whole);
        let unknown = span.attributes.keys().find(|name| !ATTRIBUTES.contains(&name.as_str()));
        ensure!(unknown.is_none(), "{unknown:?} in {span:?}");
    }
    Ok(())
}

/// A fresh key to the server over this folder.
async fn key(folder: &std::path::Path) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command
        .args(["keys", "create", "--tenant", "acme-clinic", "--data-dir"])
        .arg(folder.join("data"))
        .current_dir(folder);
    let output = command.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn a_setting_that_makes_no_sense_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, value, complaint) in [
        (ENDPOINT, "localhost:4317", "write it as http://host:4318"),
        (ENDPOINT, "http://me:hush@host:4318", "without user"),
        ("VERBATIM__TRACING__SAMPLE_RATIO", "2", "tracing.sample_ratio must be from 0 to 1"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).env(name, value).current_dir(folder.path());
        let output = command.kill_on_drop(true).output().await?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2) && told.contains(complaint), "{told}");
        ensure!(!told.contains("hush"), "{told}");
    }
    Ok(())
}
