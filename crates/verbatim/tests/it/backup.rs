//! `verbatim backup` and `verbatim restore`: what was saved is served again, what is damaged or unsafe is refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde_json::Value;
use tokio::process::Command;

use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

/// One job at a time, whose words come at once.
const FAST: [(&str, &str); 3] = [
    ("VERBATIM__WORKER__ENGINES", "fake"),
    ("VERBATIM__WORKER__CONCURRENCY", "1"),
    ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.001"),
];
/// One job at a time, which does not end while the test runs.
const SLOW: [(&str, &str); 3] = [FAST[0], FAST[1], ("VERBATIM__FAKE__REAL_TIME_FACTOR", "1000")];
/// Jobs only wait.
const IDLE: [(&str, &str); 2] = [FAST[0], ("VERBATIM__WORKER__ENABLED", "false")];

/// A sound that no other number gives.
fn numbered(number: i16) -> Vec<u8> {
    let mut samples = hello();
    samples.push(number);
    wav(16_000, &samples)
}

fn verbatim(arguments: &[&str], data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command.args(arguments).arg("--data-dir").arg(data_dir).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where a test keeps its data folder and its backup.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn archive(&self) -> PathBuf {
        self.path().join("saved.tar")
    }

    async fn run(&self, command: &str, data_dir: &Path) -> Result<Output> {
        let archive = self.archive();
        let file = archive.to_str().context("a path in UTF-8")?;
        Ok(verbatim(&[command, file, "--json"], data_dir).output().await?)
    }

    /// Backs `data` up and returns the summary.
    async fn back_up(&self) -> Result<Value> {
        summary(&self.run("backup", &self.data()).await?)
    }

    /// Expects that a restore into `data_dir` is refused, and returns why.
    async fn refused(&self, data_dir: &Path) -> Result<String> {
        let output = self.run("restore", data_dir).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
        Ok(said)
    }
}

fn summary(output: &Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
}

/// What lies in a folder but for its lock.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != "lock");
    names.sort();
    Ok(names)
}

/// Waits until somebody works on the job.
async fn started(client: &Client, id: &str) -> Result<()> {
    let url = format!("{}/v1/jobs/{id}/events", client.url);
    let mut events = client.http.get(url).send().await?.error_for_status()?.bytes_stream();
    let mut seen = String::new();
    while !seen.contains("event: started") {
        let piece = events.next().await.with_context(|| format!("the stream ended: {seen}"))??;
        seen.push_str(&String::from_utf8_lossy(&piece));
    }
    Ok(())
}

/// The job and its transcript, byte by byte.
async fn served(client: &Client, id: &str) -> Result<(Value, String)> {
    let url = format!("{}/v1/jobs/{id}/transcript?format=verbose_json", client.url);
    let transcript = client.http.get(url).send().await?.error_for_status()?.text().await?;
    Ok((client.get(&format!("/v1/jobs/{id}")).await?, transcript))
}

#[tokio::test]
async fn a_backup_of_a_running_server_brings_every_job_back() -> Result<()> {
    let place = Place::new()?;
    let created = verbatim(&["keys", "create", "--tenant", "acme"], &place.data()).output().await?;
    ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));

    let mut server = Server::start_in(place.path(), &FAST).await?;
    let mut client = Client::new(server.url());
    let mut finished = Vec::new();
    for number in 0..3 {
        let id = client.accepted(numbered(number), &[]).await?;
        client.ended(&id).await?;
        finished.push(served(&client, &id).await?);
    }
    server.terminate().await?;
    let mut server = Server::start_in(place.path(), &SLOW).await?;
    client = Client::new(server.url());
    let mut unfinished = Vec::new();
    for number in 3..6 {
        unfinished.push(client.accepted(numbered(number), &[("priority", "high")]).await?);
    }
    started(&client, &unfinished[0]).await?;
    ensure!(client.get(&format!("/v1/jobs/{}", unfinished[1])).await?["status"] == "queued");

    let saved = place.back_up().await?;
    // Three results, three files of audio, two databases, and the marker by which the store knows its blobs.
    ensure!(saved["files"] == 9 && saved["missing"] == serde_json::json!([]), "{saved}");
    ensure!(std::fs::metadata(place.archive())?.permissions().mode() & 0o777 == 0o600);
    let left = names(place.path())?;
    ensure!(left == ["data", "saved.tar", "serve.log"], "{left:?}");
    server.kill().await?;

    let elsewhere = tempfile::tempdir()?;
    let restored = elsewhere.path().join("data");
    let summary = summary(&place.run("restore", &restored).await?)?;
    ensure!(summary["files"] == saved["files"] && summary["bytes"] == saved["bytes"], "{summary} {saved}");
    ensure!(names(&restored)? == ["blobs", "jobs.db", "keys.db"], "{:?}", names(&restored)?);
    let keys = async |folder: &Path| verbatim(&["keys", "list", "--json"], folder).output().await;
    ensure!(keys(&restored).await?.stdout == keys(&place.data()).await?.stdout);

    let server = Server::start_in(elsewhere.path(), &FAST).await?;
    client.url = server.url().to_owned();
    for (job, transcript) in &finished {
        let id = job["id"].as_str().context("an id")?;
        ensure!(served(&client, id).await? == (job.clone(), transcript.clone()), "{job}");
    }
    for id in &unfinished {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
        ensure!(!served(&client, id).await?.1.is_empty());
    }
    Ok(())
}

/// The audio files of a data folder, the oldest first.
fn audio(data: &Path) -> Result<Vec<PathBuf>> {
    let stores = data.join("blobs/audio");
    let store = names(&stores)?.pop().context("the part of the one store")?;
    let folder = stores.join(store);
    Ok(names(&folder)?.into_iter().map(|name| folder.join(name)).collect())
}

#[tokio::test]
async fn a_job_that_ends_while_it_is_backed_up_is_saved_as_it_is_then() -> Result<()> {
    let place = Place::new()?;
    let server = Server::start_in(place.path(), &IDLE).await?;
    let client = Client::new(server.url());
    for number in 1..3 {
        client.accepted(numbered(number), &[]).await?;
    }
    let ending = client.accepted(numbered(3), &[]).await?;
    let audio = audio(&place.data())?;
    // The first two files are pipes: whoever opens one for reading waits until somebody opens it for writing.
    for pipe in &audio[..2] {
        std::fs::remove_file(pipe)?;
        ensure!(Command::new("mkfifo").arg(pipe).status().await?.success());
    }
    let archive = place.archive();
    let backup = verbatim(&["backup", archive.to_str().context("UTF-8")?, "--json"], &place.data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let opened = async |pipe: &Path| {
        let pipe = pipe.to_owned();
        tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(pipe))
            .await?
            .map_err(anyhow::Error::from)
    };
    // It has copied the databases and the first file, and cannot go past the second.
    let first = opened(&audio[0]).await?;
    // Cancelled, and removed with its audio.
    for status in [202, 204] {
        let gone = client.http.delete(format!("{}/v1/jobs/{ending}", client.url)).send().await?;
        ensure!(gone.status() == status, "{gone:?}");
    }
    while audio[2].exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let second = opened(&audio[1]).await?;
    drop((first, second));
    let saved = summary(&backup.wait_with_output().await?)?;
    ensure!(saved["missing"] == serde_json::json!([]), "the databases still ask for it: {saved}");

    let restored = place.path().join("restored");
    summary(&place.run("restore", &restored).await?)?;
    ensure!(self::audio(&restored)?.len() == 2, "{:?}", self::audio(&restored)?);
    Ok(())
}

#[tokio::test]
async fn audio_that_is_gone_is_told_and_stops_nothing() -> Result<()> {
    let place = Place::new()?;
    let server = Server::start_in(place.path(), &IDLE).await?;
    let client = Client::new(server.url());
    for number in 1..3 {
        client.accepted(numbered(number), &[]).await?;
    }
    let lost = &audio(&place.data())?[0];
    std::fs::remove_file(lost)?;
    let saved = place.back_up().await?;
    let name = lost.strip_prefix(place.data().join("blobs"))?.display().to_string();
    ensure!(saved["missing"] == serde_json::json!([name]), "{saved}");
    ensure!(saved["files"] == 3, "the other audio, the marker and the database: {saved}");
    Ok(())
}

/// Where the header of a member begins: at a multiple of 512, with its name, behind a copy of it where that is long.
fn header_of(archive: &[u8], name: &str) -> Result<usize> {
    let blocks = archive.chunks(512).rposition(|block| block.starts_with(name.as_bytes()));
    Ok(blocks.with_context(|| format!("there is no {name}"))? * 512)
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_nothing_is_put_in_place() -> Result<()> {
    let place = Place::new()?;
    let server = Server::start_in(place.path(), &FAST).await?;
    let client = Client::new(server.url());
    client.ended(&client.accepted(numbered(1), &[]).await?).await?;
    place.back_up().await?;
    let whole = std::fs::read(place.archive())?;

    let target = place.path().join("restored");
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for member in ["blobs/results/", "jobs.db", "manifest.json", "manifest.json.sha256"] {
        for offset in [0, 130, 512, 512 + 20] {
            let mut damaged = whole.clone();
            damaged[header_of(
                &whole,
                &format!("{member}{}", if member.ends_with('/') { "" } else { "\0" }),
            )? + offset] ^= 4;
            damages.push((format!("byte {offset} of {member}"), damaged));
        }
    }
    for kept in [0, 700, whole.len() / 2, header_of(&whole, "manifest.json\0")?] {
        damages.push((format!("only {kept} bytes"), whole[..kept].to_vec()));
    }
    for (what, damaged) in damages {
        std::fs::write(place.archive(), damaged)?;
        let said = place.refused(&target).await.with_context(|| what.clone())?;
        ensure!(said.contains("nothing was restored"), "{what}: {said}");
        ensure!(names(&target)?.is_empty(), "{what}: {:?}", names(&target)?);
    }
    std::fs::write(place.archive(), whole)?;
    summary(&place.run("restore", &target).await?)?;
    Ok(())
}

#[tokio::test]
async fn a_restore_touches_no_folder_in_use() -> Result<()> {
    let place = Place::new()?;
    let server = Server::start_in(place.path(), &IDLE).await?;
    let client = Client::new(server.url());
    let id = client.accepted(numbered(1), &[]).await?;
    place.back_up().await?;
    let said = place.refused(&place.data()).await?;
    ensure!(said.contains("another server is running"), "{said}");
    ensure!(client.get(&format!("/v1/jobs/{id}")).await?["status"] == "queued");
    drop(server);

    let other = place.path().join("other");
    std::fs::create_dir(&other)?;
    std::fs::write(other.join("notes.txt"), "mine")?;
    let said = place.refused(&other).await?;
    ensure!(said.contains("is not empty") && said.contains("--data-dir"), "{said}");
    ensure!(names(&other)? == ["notes.txt"] && std::fs::read(other.join("notes.txt"))? == b"mine");

    // A restore that was killed while it put things in place: no server takes what is there for the whole.
    let half = tempfile::tempdir()?;
    std::fs::create_dir_all(half.path().join("data/restoring"))?;
    let refusal = match Server::start_in(half.path(), &IDLE).await {
        Ok(_) => anyhow::bail!("a server started on half a restore"),
        Err(refusal) => format!("{refusal:#}"),
    };
    ensure!(refusal.contains("broke off"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_backed_up_is_told_apart() -> Result<()> {
    let place = Place::new()?;
    let output = place.run("backup", &place.data()).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("no server has run there"), "{said}");
    let usage = verbatim(&["backup"], &place.data()).output().await?;
    ensure!(usage.status.code() == Some(2), "{:?}", usage.status);
    for (variable, value, says) in
        [("VERBATIM__REDIS__URL", "redis://127.0.0.1:1", "Redis"), ("VERBATIM__S3__BUCKET", "b", "bucket")]
    {
        for command in ["backup", "restore"] {
            let output = verbatim(&[command, "x.tar"], &place.data()).env(variable, value).output().await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(1) && said.contains(says), "{command} {variable}: {said}");
        }
    }
    ensure!(names(place.path())?.is_empty(), "{:?}", names(place.path())?);
    Ok(())
}
