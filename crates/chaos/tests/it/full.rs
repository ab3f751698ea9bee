//! Stores without room, and a Redis that forgets its scripts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use verbatim_chaos::check::check_clients;
use verbatim_chaos::cluster::{Cluster, Settings};
use verbatim_chaos::engine::{CHAOS, known_answer};
use verbatim_chaos::inspect;
use verbatim_chaos::node::Signal;

use crate::support::{World, plain, settings};

impl World {
    /// One upload that is not repeated.
    async fn upload(&self, serial: u64, millis: u16, note: &str, model: &'static str) -> Result<Response> {
        let file = Part::bytes(plain(serial, millis).wav()).file_name("sound.wav");
        let notes: serde_json::Map<_, _> = (0..16).map(|name| (format!("n{name}"), note.into())).collect();
        let form = Form::new().text("vad", "false").text("model", model);
        let form = form.text("metadata", serde_json::to_string(&notes)?);
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

/// Bytes that Redis counts, and those of them that are data: not scripts, nor the buffers of connections, which swing by some
/// hundred thousand.
async fn bytes(world: &World) -> Result<[u64; 2]> {
    world
        .cluster
        .look(|redis| {
            let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query(redis)?;
            let number = |name: &str| info.get(name).with_context(|| format!("Redis does not tell {name}"));
            Ok([number("used_memory")?, number("used_memory_dataset")?])
        })
        .await
}

/// Nobody works on its jobs while it fills, so that it is full of jobs that wait. One that is full of finished jobs takes more
/// when these expire.
#[tokio::test]
async fn a_full_redis_finishes_what_it_has_and_takes_submissions_again() -> Result<()> {
    const OTHER: &str = "chaos-b";
    let redis = ["--maxmemory", "6mb"].map(str::to_owned).to_vec();
    // The one worker restarts meanwhile, which a full Redis must not keep it from.
    let (workers, models) = (3, vec![CHAOS, CHAOS, OTHER]);
    let world =
        World::new(Settings { workers, models, concurrency: 16, redis, max_jobs: 100, ..settings() }).await?;
    // What takes room once is there: scripts, and the buffers of connections.
    let first = try_join_all((0..32).map(|number| world.client(20_000 + number, plain(20_000 + number, 20))));
    assert_eq!(check_clients(&first.await?).1, []);
    let worker = async |signal| {
        ensure!(Cluster::signal(&world.cluster.workers, 2, signal).await, "the worker is not there");
        anyhow::Ok(())
    };
    worker(Signal::Stop).await?;
    // Metadata of about a kilobyte, so that Redis is full after some hundred jobs.
    let note = "x".repeat(60);
    let mut accepted = Vec::new();
    let refused = loop {
        let serial = accepted.len() as u64;
        ensure!(serial < 5_000, "it never fills");
        let answer = world.upload(serial, 20, &note, OTHER).await?;
        if !answer.status().is_success() {
            break answer;
        }
        let job: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
        accepted.push((serial, job["id"].as_str().context("an id")?.to_owned()));
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let full = bytes(&world).await?;
    worker(Signal::Cont).await?;
    let all = accepted.len();
    for (serial, id) in accepted {
        assert_eq!(world.text(&id).await?, known_answer(plain(serial, 20)).await?);
    }
    ensure!(inspect::restarts(&world.cluster.logs())? > 0, "the worker has not restarted");
    let done = bytes(&world).await?;
    println!("{all} jobs; bytes, and those of data: {full:?} when they waited, {done:?} when they were done");
    ensure!(done[1] < full[1], "data of {all} jobs took {} bytes, and take {} now", full[1], done[1]);
    let taken = async || Ok(world.upload(10_000, 20, &note, CHAOS).await?.status().is_success());
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
        let refused = world.upload(1_000, 20, "", CHAOS).await?;
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
