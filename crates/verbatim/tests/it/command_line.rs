//! The commands, as a shell runs them.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::sound::{hello_times, made_by};
use crate::support::{Client, Server, models, repository};

fn verbatim(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command.args(arguments).current_dir(folder).env("VERBATIM__MODELS__DIR", models()).kill_on_drop(true);
    command
}

async fn run(folder: &Path, arguments: &[&str]) -> Result<Output> {
    Ok(verbatim(folder, arguments).stdin(Stdio::null()).output().await?)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn files_are_transcribed_without_a_server() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    let sample = repository().join("samples/hello.wav");
    std::fs::copy(&sample, dir.join("a.wav"))?;
    std::fs::write(dir.join("b.wav"), hello_times(2))?;

    let output = run(dir, &["transcribe", "*.wav", "--format", "srt", "--output-dir", "out"]).await?;
    ensure!(output.status.success(), "{}", err(&output));
    for name in ["a.srt", "b.srt"] {
        let subtitles = dir.join("out").join(name);
        ensure!(std::fs::read_to_string(&subtitles)?.contains(" --> "), "{name}");
        // ffmpeg reads them, and writes as many cues.
        let source = subtitles.to_str().context("a path in UTF-8")?;
        let read_back = made_by("ffmpeg", &["-y", "-i", source], &dir.join("copy.vtt"))?;
        let cues = |text: &str| text.matches(" --> ").count();
        ensure!(
            cues(&String::from_utf8(read_back)?) == cues(&std::fs::read_to_string(&subtitles)?),
            "{name}"
        );
    }

    let mut piped = verbatim(dir, &["transcribe", "-", "--format", "json", "--words", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = piped.stdin.take().context("standard input is piped")?;
    stdin.write_all(&std::fs::read(&sample)?).await?;
    drop(stdin);
    let output = piped.wait_with_output().await?;
    let transcript: Value = serde_json::from_str(&out(&output)).with_context(|| err(&output))?;
    ensure!(
        transcript["segments"][0]["words"].as_array().is_some_and(|words| words.len() > 5),
        "{transcript}"
    );
    ensure!(err(&output).is_empty(), "--quiet says nothing: {}", err(&output));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_transcribed_is_named_and_the_rest_is_done() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    std::fs::write(dir.join("letter.wav"), "not a recording")?;
    std::fs::write(dir.join("good.wav"), hello_times(1))?;
    let output = run(dir, &["transcribe", "letter.wav", "good.wav"]).await?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    ensure!(err(&output).contains("letter.wav") && out(&output).contains("computer"), "{}", err(&output));

    let output = run(dir, &["transcribe", "nowhere.wav"]).await?;
    ensure!(output.status.code() == Some(1) && err(&output).contains("nowhere.wav"), "{}", err(&output));
    let output = run(dir, &["transcribe", "good.wav", "--translate"]).await?;
    ensure!(err(&output).contains("English-only"), "{}", err(&output));
    let output = run(dir, &["transcribe", "good.wav", "--model", "bsae"]).await?;
    ensure!(err(&output).contains("tiny.en"), "it lists what there is: {}", err(&output));
    let output = run(dir, &["transcribe"]).await?;
    ensure!(output.status.code() == Some(2), "usage errors exit with 2: {:?}", output.status);
    Ok(())
}

#[tokio::test]
async fn jobs_are_submitted_listed_watched_and_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    std::fs::write(dir.join("talk.wav"), hello_times(1))?;
    let server = Server::start(&[]).await?;
    let with_server = |arguments: &[&str]| {
        let mut command = verbatim(dir, arguments);
        command.env("VERBATIM_SERVER", server.url()).stdin(Stdio::null());
        command
    };
    ensure!(with_server(&["healthcheck"]).output().await?.status.success());

    let output = with_server(&["submit", "talk.wav"]).output().await?;
    ensure!(output.status.success() && out(&output).contains("computer"), "{}", err(&output));
    let output = with_server(&["submit", "talk.wav", "--no-wait", "--json"]).output().await?;
    let job: Value = serde_json::from_str(&out(&output)).with_context(|| err(&output))?;
    ensure!(job["cached"] == true, "the same file again: {job}");
    let id = job["id"].as_str().context("an id")?;

    ensure!(out(&with_server(&["jobs", "list"]).output().await?).contains(id));
    ensure!(out(&with_server(&["jobs", "get", id]).output().await?).contains("completed"));
    ensure!(with_server(&["jobs", "watch", id]).output().await?.status.success());
    ensure!(out(&with_server(&["jobs", "cancel", id]).output().await?).contains("removed"));
    let output = with_server(&["jobs", "get", id]).output().await?;
    ensure!(output.status.code() == Some(1) && err(&output).contains("404"), "{}", err(&output));
    let output = with_server(&["jobs", "get", "../../etc"]).output().await?;
    ensure!(output.status.code() == Some(2) && err(&output).contains("job id"), "{}", err(&output));
    let jobs = Client::new(server.url()).get("/v1/jobs").await?;
    ensure!(
        jobs["data"].as_array().is_some_and(|jobs| jobs.len() == 1),
        "the other submission stays: {jobs}"
    );
    Ok(())
}

#[tokio::test]
async fn documents_come_from_the_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    let completions = out(&run(dir, &["completions", "bash"]).await?);
    ensure!(completions.contains("transcribe") && completions.contains("_verbatim"));
    ensure!(run(dir, &["man", "--output-dir", "man"]).await?.status.success());
    ensure!(std::fs::read_to_string(dir.join("man/verbatim.1"))?.contains("transcribe"));
    ensure!(dir.join("man/verbatim-jobs-watch.1").is_file());
    let shown = out(&run(dir, &["config", "check", "--listen", "127.0.0.1:9"]).await?);
    ensure!(shown.contains("127.0.0.1:9") && shown.contains("[whisper]"), "{shown}");

    std::fs::write(dir.join("verbatim.toml"), "[server]\nprot = 1\n")?;
    let output = run(dir, &["config", "check"]).await?;
    ensure!(output.status.code() == Some(2) && err(&output).contains("prot"), "{}", err(&output));
    Ok(())
}

#[tokio::test]
async fn the_committed_openapi_document_is_the_code_s() -> Result<()> {
    let printed = out(&run(&repository(), &["openapi"]).await?);
    let committed = std::fs::read_to_string(repository().join("openapi.json"))?;
    ensure!(printed == committed, "openapi.json has drifted; write it anew: verbatim openapi > openapi.json");
    Ok(())
}
