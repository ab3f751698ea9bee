//! Many at once: the same file, different files, large files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use futures::stream;
use reqwest::multipart::{Form, Part};

use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

const COMPLETED: &str = "verbatim_job_attempts_total{outcome=\"completed\"}";

#[tokio::test]
async fn a_hundred_uploads_of_one_file_are_one_transcription() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_in(folder.path(), &[]).await?;
    let client = Client::new(server.url());
    let audio = wav(16_000, &hello());
    let jobs = try_join_all((0..100).map(|_| client.accepted(audio.clone(), &[]))).await?;
    let ended = try_join_all(jobs.iter().map(|id| client.ended(id))).await?;
    for job in &ended {
        ensure!(job["status"] == "completed", "{job}");
    }
    let texts = try_join_all(jobs.iter().map(|id| client.text(id))).await?;
    ensure!(texts.iter().all(|text| text == &texts[0] && text.contains("computer")), "{texts:?}");
    let metrics = client.metrics().await?;
    ensure!(metrics.get(COMPLETED) == Some(&1.0), "{:?}", metrics.get(COMPLETED));
    // The uploads that attached to the first are gone; its own is kept for its grace.
    ensure!(uploads_left(folder.path())? <= 1);
    Ok(())
}

#[tokio::test]
async fn a_hundred_different_files_are_a_hundred_transcriptions() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_in(folder.path(), &[]).await?;
    let client = Client::new(server.url());
    let speech = hello();
    let file = |number: usize| wav(16_000, &speech[..24_000 + number]);
    let jobs = try_join_all((0..100).map(|number| client.accepted(file(number), &[]))).await?;
    for job in try_join_all(jobs.iter().map(|id| client.ended(id))).await? {
        ensure!(job["status"] == "completed" && job["deduplicated"] == false, "{job}");
    }
    ensure!(client.metrics().await?.get(COMPLETED) == Some(&100.0));
    Ok(())
}

const FILES: usize = 50;
const MEGABYTES: usize = 50;

/// Streams a WAV file of 50 MB that is unlike any other.
async fn upload_large(client: &Client, number: usize) -> Result<()> {
    let bytes = MEGABYTES * 1_000_000;
    let mut header = wav(16_000, &[]);
    let length = u32::try_from(bytes)?;
    header[4..8].copy_from_slice(&(length + 36).to_le_bytes());
    header[40..44].copy_from_slice(&length.to_le_bytes());
    let piece = vec![u8::try_from(number)?; 1_000_000];
    let pieces = std::iter::once(header).chain((0..MEGABYTES).map(move |_| piece.clone()));
    let body = reqwest::Body::wrap_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)));
    let form = Form::new().part("file", Part::stream(body).file_name("large.wav"));
    let answer = client.http.post(format!("{}/v1/jobs", client.url)).multipart(form).send().await?;
    ensure!(answer.status() == 202, "{}: {}", answer.status(), answer.text().await?);
    Ok(())
}

#[tokio::test]
async fn fifty_large_uploads_at_once_do_not_fill_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__WORKER__ENABLED", "false"), ("VERBATIM__WORKER__ENGINES", "fake")];
    let server = Server::start_in(folder.path(), &settings).await?;
    let client = Client::new(server.url());
    let idle = server.resident_bytes()?;
    let uploads = try_join_all((0..FILES).map(|number| upload_large(&client, number)));
    tokio::pin!(uploads);
    let mut peak = idle;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        tokio::select! {
            done = &mut uploads => break done.map(|_| ())?,
            _ = ticks.tick() => peak = peak.max(server.resident_bytes()?),
        }
    }
    let growth = (peak - idle) / 1_000_000;
    println!(
        "{FILES} uploads of {MEGABYTES} MB at once: {} MB idle, {growth} MB more at the peak",
        idle / 1_000_000
    );
    ensure!(growth < 250, "memory grew by {growth} MB");
    Ok(())
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__WORKER__ENGINES", "fake")];
    let server = Server::start_in(folder.path(), &settings).await?;
    let client = Client::new(server.url());
    let pieces =
        stream::iter([Ok(wav(16_000, &[0; 500_000])), Err(std::io::Error::other("the client gives up"))]);
    let part = Part::stream(reqwest::Body::wrap_stream(pieces)).file_name("a.wav");
    let answer =
        client.http.post(format!("{}/v1/jobs", client.url)).multipart(Form::new().part("file", part)).send();
    ensure!(answer.await.is_err(), "an upload that breaks off gets no answer");
    let in_flight = "verbatim_uploads_in_flight";
    while client.metrics().await?.get(in_flight) != Some(&0.0) {
        tokio::task::yield_now().await;
    }
    ensure!(uploads_left(folder.path())? == 0);
    ensure!(client.get("/v1/jobs").await?["data"].as_array().context("a list")?.is_empty());
    Ok(())
}

/// Files of uploads, finished or not, but for the locks that say whose they are.
fn uploads_left(folder: &Path) -> Result<usize> {
    fn count(folder: &Path) -> std::io::Result<usize> {
        let mut files = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            files += if path.is_dir() {
                count(&path)?
            } else {
                usize::from(path.extension() != Some("lock".as_ref()))
            };
        }
        Ok(files)
    }
    let blobs = folder.join("data/blobs");
    Ok(count(&blobs.join("audio"))? + count(&blobs.join("tmp"))?)
}
