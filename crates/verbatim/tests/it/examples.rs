//! The programs in `examples/`, as a reader of the pages runs them: in good times, in bad ones, and when they are used wrongly.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::openai_sdk::python;
use crate::support::flaky::{Flaky, Mood};
use crate::support::sound::hello_times;
use crate::support::{Client, Server, repository};

/// Each example, and what runs it.
fn example(name: &str) -> Command {
    let script = repository().join("examples").join(name);
    if name == "openai_sdk.py" {
        let mut command = Command::new(python());
        command.arg(script);
        return command;
    }
    Command::new(script)
}

async fn run(name: &str, arguments: &[&str], server: &str, key: &str) -> Result<Output> {
    let mut command = example(name);
    command.args(arguments).env("VERBATIM_SERVER", server).env("VERBATIM_API_KEY", key).kill_on_drop(true);
    command.output().await.with_context(|| format!("examples/{name} cannot be run: run `scripts/setup test`"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn key(folder: &Path) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command.args(["keys", "create", "--tenant", "reader", "--data-dir"]).arg(folder.join("data"));
    let output = command.current_dir(folder).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    Ok(text(&output.stdout).trim().to_owned())
}

fn sample() -> Result<String> {
    let path: PathBuf = repository().join("samples/hello.wav");
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

#[tokio::test]
async fn each_example_prints_the_words_of_the_sample() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__AUTH__REQUIRED", "true"), ("VERBATIM__WHISPER__REPLICAS", "1")];
    let server = Server::start_in(folder.path(), &settings).await?;
    let key = key(folder.path()).await?;
    let sample = sample()?;
    let runs: [(&str, &[&str], &str); 9] = [
        ("transcribe.py", &["--follow"], "[    0.00 ->"),
        ("transcribe.py", &[], ""),
        ("transcribe.py", &["--format", "srt"], "00:00:00,000 -->"),
        ("transcribe.py", &["--format", "vtt", "--model", "tiny.en", "--language", "en"], "WEBVTT"),
        ("transcribe.py", &["--follow"], "[    0.00 ->"),
        ("openai_sdk.py", &[], ""),
        ("openai_sdk.py", &["--stream"], ""),
        ("transcribe.sh", &[], ""),
        ("transcribe.sh", &["vtt"], "WEBVTT"),
    ];
    for (name, options, begins) in runs {
        let arguments = [&[sample.as_str()], options].concat();
        let output = run(name, &arguments, server.url(), &key).await?;
        let (said, complaint) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "{name} {options:?}: {complaint}");
        ensure!(complaint.is_empty(), "{name} {options:?} had something to say: {complaint}");
        let said = said.trim_start_matches("1\n");
        ensure!(said.starts_with(begins), "{name} {options:?}: {said}");
        ensure!(said.to_lowercase().contains("welcome to verbatim"), "{name} {options:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_sentence() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__AUTH__REQUIRED", "true"), ("VERBATIM__WORKER__ENGINES", "fake")];
    let server = Server::start_in(folder.path(), &settings).await?;
    let key = key(folder.path()).await?;
    let sample = sample()?;
    let letter = folder.path().join("letter.wav");
    std::fs::write(&letter, "not a recording")?;
    let letter = letter.to_str().context("a path in UTF-8")?;
    // Nobody listens on a port that was free a moment ago.
    let nobody = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let wrong = [
        (sample.as_str(), server.url(), "wrong", "the API key is unknown"),
        ("nowhere.wav", server.url(), &key, "cannot read nowhere.wav"),
        (letter, server.url(), &key, "its content decides"),
        (sample.as_str(), &nobody, &key, "cannot reach http://127.0.0.1:"),
    ];
    for name in ["transcribe.py", "openai_sdk.py", "transcribe.sh"] {
        for (file, server, key, sentence) in wrong {
            let impatient: &[&str] = if name == "transcribe.py" { &["--patience", "0"] } else { &[] };
            let output = run(name, &[&[file], impatient].concat(), server, key).await?;
            let complaint = text(&output.stderr);
            ensure!(output.status.code() == Some(1), "{name} {file}: {:?} {complaint}", output.status);
            ensure!(output.stdout.is_empty(), "{name} {file}: {}", text(&output.stdout));
            ensure!(
                complaint.trim_end().lines().count() == 1 && complaint.contains(sentence),
                "{name} {file}: {complaint}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_python_client_gets_through_bad_times_with_one_job() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("long.wav");
    std::fs::write(&file, hello_times(3))?;
    let file = file.to_str().context("a path in UTF-8")?;
    let server = Server::start(&[("VERBATIM__WORKER__ENGINES", "fake")]).await?;
    let moods = [Mood::Refuses, Mood::LosesTheAnswer, Mood::Works, Mood::BreaksOffAfterAnEvent];
    let flaky = Flaky::start(server.url(), moods).await?;

    let output = run("transcribe.py", &[file, "--follow"], flaky.url(), "").await?;
    let complaint = text(&output.stderr);
    ensure!(output.status.success(), "{complaint}");
    ensure!(complaint.contains("the server answers 503"), "the first answer: {complaint}");
    ensure!(complaint.contains("cannot reach"), "the second answer was lost: {complaint}");

    let heads = flaky.heads();
    ensure!(
        heads.len() >= 5 && heads[..3].iter().all(|head| head.starts_with("POST /v1/jobs ")),
        "{heads:#?}"
    );
    ensure!(heads[4].contains("/events ") && heads[4].contains("\r\nLast-Event-ID: "), "{heads:#?}");

    let client = Client::new(server.url());
    let jobs = client.get("/v1/jobs").await?;
    let jobs = jobs["data"].as_array().context("a list")?;
    ensure!(jobs.len() == 1, "three uploads are one job: {jobs:?}");
    let id = jobs[0]["id"].as_str().context("an id")?;
    let transcript = client.get(&format!("/v1/jobs/{id}/transcript?format=json")).await?;
    let segments = transcript["segments"].as_array().context("segments")?;
    let wanted: Vec<_> = segments.iter().filter_map(|segment| segment["text"].as_str()).collect();
    let said = text(&output.stdout);
    let shown: Vec<_> = said.lines().filter_map(|line| Some(line.split_once("] ")?.1)).collect();
    ensure!(
        !wanted.is_empty() && shown == wanted,
        "each segment once: {said} {}",
        Value::from(segments.clone())
    );
    Ok(())
}
