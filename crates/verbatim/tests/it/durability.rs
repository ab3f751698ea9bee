//! What survives: a killed process, a full disk, a second server on the same folder.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde_json::Value;

use crate::support::sound::{hello, hello_times, shared_words, story, wav, words};
use crate::support::{Client, Server};

/// Waits until the first segment of a job is decoded, so that the job is in the middle of its work.
async fn first_segment(client: &Client, id: &str) -> Result<()> {
    let url = format!("{}/v1/jobs/{id}/events", client.url);
    let mut events = client.http.get(url).send().await?.error_for_status()?.bytes_stream();
    let mut seen = String::new();
    while let Some(piece) = events.next().await {
        seen.push_str(&String::from_utf8_lossy(&piece?));
        if seen.contains("event: segment") {
            return Ok(());
        }
    }
    anyhow::bail!("the job ended before it could be disturbed: {seen}")
}

#[tokio::test]
async fn jobs_survive_kill_9_wherever_they_are() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let one_at_a_time = [("VERBATIM__WORKER__CONCURRENCY", "1")];
    let mut server = Server::start_in(folder.path(), &one_at_a_time).await?;
    let client = Client::new(server.url());
    let stories = [story(2, folder.path())?, story(20, folder.path())?, story(4, folder.path())?];
    let mut jobs = Vec::new();
    for (_, audio) in &stories {
        jobs.push(client.accepted(audio.clone(), &[]).await?);
        if jobs.len() == 1 {
            client.ended(&jobs[0]).await?;
        }
    }
    // The first has finished, the second is in the middle, the third waits.
    first_segment(&client, &jobs[1]).await?;
    server.kill().await?;

    let server = Server::start_in(folder.path(), &one_at_a_time).await?;
    let client = Client::new(server.url());
    for (id, (spoken, _)) in jobs.iter().zip(&stories) {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed", "{job}");
        let heard = words(&client.text(id).await?);
        let shared = shared_words(spoken, &heard);
        // Nothing of it is missing and nothing is there twice, but for what a small model mishears: a tenth, and one phrase, since
        // the shortest story has one ("in a row") that tiny.en hears as one word on some processors.
        let (fewest, most) = (spoken.len() * 9 / 10 - 1, spoken.len() * 11 / 10);
        ensure!(shared >= fewest && heard.len() <= most, "{shared} of {} words: {heard:?}", spoken.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_refuses_to_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__WORKER__ENGINES", "fake")];
    let server = Server::start_in(folder.path(), &settings).await?;
    let refusal = match Server::start_in(folder.path(), &settings).await {
        Ok(second) => anyhow::bail!("{} and {} share one folder", server.url(), second.url()),
        Err(refusal) => format!("{refusal:#}"),
    };
    ensure!(
        refusal.contains("another") && refusal.contains("--data-dir"),
        "it does not say what to do: {refusal}"
    );
    Ok(())
}

/// Noise whose bytes differ from those of every other `seed`: 16-bit samples of a linear congruential generator.
fn noise(seed: u32, samples: usize) -> Vec<i16> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        i16::from_be_bytes([state.to_be_bytes()[0], state.to_be_bytes()[1]])
    })
    .take(samples)
    .collect()
}

#[tokio::test]
async fn a_full_disk_refuses_uploads_and_loses_no_job() -> Result<()> {
    let disk = tempfile::tempdir()?;
    // Without the watermark, which would stop the uploads before there is anything to see.
    let no_watermark = [("VERBATIM__STORAGE__MIN_FREE_DISK_MB", "0")];
    let server = Server::start_on_small_disk(disk.path(), "24m", &no_watermark).await?;
    let client = Client::new(server.url());
    let speech = client.accepted(hello_times(1), &[]).await?;
    client.ended(&speech).await?;

    // Five megabytes each: the disk is full after a few, and they cannot all be worked off in the meantime.
    let mut accepted = vec![speech];
    let refusal = loop {
        ensure!(accepted.len() < 40, "40 files of 5 MB fit on a disk of 24 MB");
        let seed = u32::try_from(accepted.len())?;
        let (status, answer) = client.upload(wav(96_000, &noise(seed, 2_500_000)), &[]).await?;
        match status.as_u16() {
            202 => accepted.push(answer["id"].as_str().context("an id")?.to_owned()),
            507 => break answer,
            _ => anyhow::bail!("{status}: {answer}"),
        }
    };
    ensure!(refusal["code"] == "out_of_space", "{refusal}");
    for id in &accepted {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed", "a job was lost on a full disk: {job}");
    }
    // Their audio is gone now, and there is room again.
    let again = until_accepted(&client).await?;
    ensure!(client.ended(&again).await?["status"] == "completed");
    ensure!(client.text(&accepted[0]).await?.contains("computer"));
    Ok(())
}

#[tokio::test]
async fn uploads_stop_at_the_watermark_and_jobs_go_on() -> Result<()> {
    const MEGABYTE: f64 = 1024.0 * 1024.0;
    let disk = tempfile::tempdir()?;
    let settings = [
        ("VERBATIM__STORAGE__MIN_FREE_DISK_MB", "40"),
        ("VERBATIM__WORKER__ENGINES", "fake"),
        // Longer than it takes to fill what may be filled.
        ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.2"),
    ];
    let server = Server::start_on_small_disk(disk.path(), "64m", &settings).await?;
    let client = Client::new(server.url());
    ensure!(client.metrics().await?["verbatim_disk_size_bytes"] == 64.0 * MEGABYTE);

    let mut accepted = Vec::new();
    let refusal = loop {
        let seed = u32::try_from(accepted.len())?;
        let (status, answer) = client.upload(wav(96_000, &noise(seed, 2_500_000)), &[]).await?;
        match status.as_u16() {
            202 => accepted.push(answer["id"].as_str().context("an id")?.to_owned()),
            507 => break answer,
            _ => anyhow::bail!("{status}: {answer}"),
        }
        ensure!(accepted.len() < 40, "the watermark stops nothing");
    };
    ensure!(refusal["code"] == "out_of_space", "{refusal}");
    ensure!(!accepted.is_empty(), "there was room for some");
    // Nearly full, and far from full: what jobs need besides may go below the watermark.
    let free = client.metrics().await?["verbatim_disk_free_bytes"] / MEGABYTE;
    ensure!((20.0..64.0).contains(&free), "{free} MB are free");
    ensure!(client.http.get(format!("{}/readyz", client.url)).send().await?.status().is_success());
    for id in &accepted {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed", "a job was lost below the watermark: {job}");
    }
    let again = until_accepted(&client).await?;
    ensure!(client.ended(&again).await?["status"] == "completed");
    Ok(())
}

/// Uploads new speech until there is room for it: blobs are deleted in the background.
async fn until_accepted(client: &Client) -> Result<String> {
    let mut samples = hello();
    samples.extend([0; 1600]);
    loop {
        let (status, answer): (_, Value) = client.upload(wav(16_000, &samples), &[]).await?;
        match status.as_u16() {
            202 => return Ok(answer["id"].as_str().context("an id")?.to_owned()),
            507 => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            _ => anyhow::bail!("{status}: {answer}"),
        }
    }
}

#[tokio::test]
async fn sigterm_finishes_what_is_at_hand_and_keeps_the_rest() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [("VERBATIM__WORKER__CONCURRENCY", "1")];
    let mut server = Server::start_in(folder.path(), &settings).await?;
    let client = Client::new(server.url());
    let running = client.accepted(story(8, folder.path())?.1, &[]).await?;
    let waiting = client.accepted(hello_times(1), &[]).await?;
    first_segment(&client, &running).await?;
    let status = server.terminate().await?;
    ensure!(status.success(), "a requested stop is a success: {status}");

    let server = Server::start_in(folder.path(), &settings).await?;
    let client = Client::new(server.url());
    let job = client.ended(&running).await?;
    ensure!(job["status"] == "completed" && job["attempt"] == 1, "it was finished before the stop: {job}");
    ensure!(client.ended(&waiting).await?["status"] == "completed");
    ensure!(left_in(&folder.path().join("data/scratch"))? == 0, "temporary files were left behind");
    Ok(())
}

fn left_in(folder: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}
