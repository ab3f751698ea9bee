//! Stores without room, and a Redis that forgets its scripts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use verbatim_chaos::check::check_clients;
use verbatim_chaos::cluster::Settings;
use verbatim_chaos::engine::known_answer;
use verbatim_chaos::inspect;

use crate::support::{World, plain, settings};

impl World {
    /// One upload that is not repeated.
    async fn upload(&self, serial: u64, millis: u16, note: &str) -> Result<Response> {
        let file = Part::bytes(plain(serial, millis).wav()).file_name("sound.wav");
        let notes: serde_json::Map<_, _> = (0..16).map(|name| (format!("n{name}"), note.into())).collect();
        let form = Form::new().text("vad", "false").text("metadata", serde_json::to_string(&notes)?);
        let url = self.cluster.apis[0].listening().await?;
        Ok(self.http.post(format!("{url}/v1/jobs")).multipart(form.part("file", file)).send().await?)
    }

    /// The text of a job, once it has completed.
    async fn text(&self, id: &str) -> Result<String> {
        let url = self.cluster.apis[0].listening().await?;
        loop {
            let job =
                self.http.get(format!("{url}/v1/jobs/{id}?wait=20")).send().await?.error_for_status()?;
            let job: serde_json::Value = serde_json::from_str(&job.text().await?)?;
            match job["status"].as_str() {
                Some("completed") => break,
                Some("queued" | "processing") => {}
                _ => anyhow::bail!("{job}"),
            }
        }
        let text = self.http.get(format!("{url}/v1/jobs/{id}/transcript?format=text")).send().await?;
        Ok(text.error_for_status()?.text().await?.trim().to_owned())
    }
}

/// Fills a small Redis, and has everything worked off that it took.
async fn filled_and_worked_off() -> Result<(World, String)> {
    let redis = ["--maxmemory", "6mb"].map(str::to_owned).to_vec();
    // Workers restart meanwhile, which a full Redis must not keep them from.
    let world = World::new(Settings { concurrency: 16, redis, max_jobs: 20, ..settings() }).await?;
    // Metadata of about a kilobyte, so that Redis is full after some hundred jobs.
    let note = "x".repeat(60);
    let mut accepted = Vec::new();
    let refused = loop {
        let serial = accepted.len() as u64;
        ensure!(serial < 5_000, "it never fills");
        let answer = world.upload(serial, 300, &note).await?;
        if !answer.status().is_success() {
            break answer;
        }
        let job: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
        accepted.push((serial, job["id"].as_str().context("an id")?.to_owned()));
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    println!("{} were accepted before Redis was full", accepted.len());
    for (serial, id) in accepted {
        assert_eq!(world.text(&id).await?, known_answer(plain(serial, 300)).await?);
    }
    ensure!(inspect::restarts(&world.cluster.logs())? > 0, "no worker has restarted");
    Ok((world, note))
}

#[tokio::test]
async fn a_full_redis_refuses_submissions_and_finishes_what_it_has() -> Result<()> {
    filled_and_worked_off().await.map(drop)
}

/// Known to fail (see docs/adr/0074): with engines that are charged for, the data of finished jobs take as much as those of
/// queued ones, probably for their charges. The store's own tests hold without charges.
#[tokio::test]
async fn soak_a_full_redis_takes_submissions_again_when_its_work_is_done() -> Result<()> {
    let (world, note) = filled_and_worked_off().await?;
    let taken = async || {
        let answer = world.upload(10_000, 20, &note).await?;
        let status = answer.status();
        if !status.is_success() {
            println!("refused: {status} {}", answer.text().await?);
        }
        Ok(status.is_success())
    };
    world.until("a submission to be taken again", taken).await
}

#[tokio::test]
async fn a_blob_store_without_space_loses_nothing() -> Result<()> {
    let world = World::new(Settings { workers: 2, blobs_mb: 16, ..settings() }).await?;
    let running = try_join_all((0..12).map(|number| world.client(number, plain(number, 700))));
    let meanwhile = async {
        // They are uploaded, and none of them is done.
        let held = async || Ok(world.cluster.held_by(0).await.unwrap_or(0) > 0);
        world.until("work to begin", held).await?;
        world.cluster.room.fill().await?;
        let refused = world.upload(1_000, 20, "").await?;
        assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE);
        // Until a worker had no room for a result.
        let failed = async || {
            let logs = std::fs::read_to_string(world.cluster.workers[0].log())?;
            Ok(logs.contains("\"outcome\":\"Retried\"") || logs.contains("could not be stored"))
        };
        world.until("a result without room", failed).await?;
        world.cluster.room.free()?;
        world.client(1_000, plain(1_000, 20)).await
    };
    let (mut histories, last) = tokio::try_join!(running, meanwhile)?;
    histories.push(last);
    assert_eq!(check_clients(&histories).1, []);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_forgets_its_scripts_loses_nothing() -> Result<()> {
    let world = World::new(settings()).await?;
    let done = AtomicBool::new(false);
    let load = async {
        let histories = try_join_all((0..200).map(|number| world.client(number, plain(number, 50)))).await;
        done.store(true, Ordering::Relaxed);
        histories
    };
    let forget = async {
        let mut times = 0;
        while !done.load(Ordering::Relaxed) {
            world.cluster.look(|redis| Ok(redis::cmd("SCRIPT").arg("FLUSH").exec(redis)?)).await?;
            times += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(times)
    };
    let (histories, times) = tokio::try_join!(load, forget)?;
    assert!(times > 1, "it forgot {times} times");
    assert_eq!(check_clients(&histories).1, []);
    Ok(())
}
