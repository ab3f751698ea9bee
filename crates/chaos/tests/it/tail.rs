//! A Redis that comes back without its last moments.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use verbatim_chaos::cluster::Settings;
use verbatim_chaos::engine::known_answer;
use verbatim_chaos::history::Status;
use verbatim_chaos::sound::{Mark, Sound};

use crate::support::{World, plain, settings};

impl World {
    /// The id of a job that was acknowledged.
    async fn acknowledged(&self, sound: Sound) -> Result<String> {
        let file = Part::bytes(sound.wav()).file_name("sound.wav");
        let form = Form::new().text("vad", "false").part("file", file);
        let url = self.cluster.apis[0].listening().await?;
        let answer = self.http.post(format!("{url}/v1/jobs")).multipart(form).send().await?;
        let job: serde_json::Value = serde_json::from_str(&answer.error_for_status()?.text().await?)?;
        Ok(job["id"].as_str().context("an id")?.to_owned())
    }

    /// Its end, or that there is no such job. A Redis that is away is asked again.
    async fn end(&self, id: &str) -> Result<Option<(Status, serde_json::Value)>> {
        loop {
            let url = self.cluster.apis[0].listening().await?;
            let Ok(answer) = self.http.get(format!("{url}/v1/jobs/{id}?wait=5")).send().await else {
                continue;
            };
            match answer.status() {
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::SERVICE_UNAVAILABLE => continue,
                status => ensure!(status.is_success(), "{status}"),
            }
            let job: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
            let end = job["status"].as_str().and_then(Status::parse).filter(|status| status.is_end());
            if let Some(end) = end {
                return Ok(Some((end, job)));
            }
        }
    }

    /// Cancels a job that has not ended.
    async fn cancel(&self, id: &str) -> Result<()> {
        let url = self.cluster.apis[0].listening().await?;
        let answer = self.http.delete(format!("{url}/v1/jobs/{id}")).send().await?;
        ensure!(answer.status() == StatusCode::ACCEPTED, "{id} was to be cancelled: {}", answer.status());
        Ok(())
    }

    async fn transcript(&self, id: &str) -> Result<String> {
        let url = self.cluster.apis[0].listening().await?;
        let answer = self.http.get(format!("{url}/v1/jobs/{id}/transcript?format=text")).send().await?;
        Ok(answer.error_for_status()?.text().await?.trim().to_owned())
    }
}

/// It has not ended when the others have.
fn long(serial: u64) -> Sound {
    Sound { mark: Mark::Long { windows: 10 }, serial }
}

#[tokio::test]
async fn a_redis_that_comes_back_older_loses_what_was_acknowledged_since_and_nothing_else() -> Result<()> {
    // As by default: longer than what may be lost.
    let world = World::new(Settings { workers: 2, grace_secs: 600, ..settings() }).await?;
    let sounds: Vec<Sound> = (0..32).map(|serial| plain(serial, 300)).collect();
    let older = try_join_all(sounds.iter().map(|sound| world.acknowledged(*sound))).await?;
    // Some have ended, some run, some wait.
    world.end(&older[8]).await?;
    let given_up = try_join_all((50..54).map(|serial| world.acknowledged(long(serial)))).await?;
    world.cluster.remember_redis().await?;
    for id in &given_up {
        world.cancel(id).await?;
    }
    for id in &older {
        let end = world.end(id).await?.map(|(end, _)| end);
        ensure!(end == Some(Status::Completed), "before anything was lost: {end:?}");
    }
    let newer = try_join_all((100..108).map(|serial| world.acknowledged(plain(serial, 20)))).await?;
    // Each of these waits for upkeep, so that it has had its turn with all that ended before.
    for serial in 200..203 {
        let later = world.acknowledged(Sound { mark: Mark::FailTimes { times: 1 }, serial }).await?;
        ensure!(world.end(&later).await?.is_some(), "{later} is gone");
    }
    world.cluster.turn_redis_back().await?;

    // A cancellation that was forgotten is no failure: the job is done.
    let sounds = sounds.into_iter().chain((50..54).map(long));
    for (id, sound) in older.iter().chain(&given_up).zip(sounds) {
        let (end, job) = world.end(id).await?.with_context(|| format!("{id} is gone"))?;
        ensure!(end == Status::Completed, "it was acknowledged before: {job}");
        ensure!(world.transcript(id).await? == known_answer(sound).await?, "{id} has other words");
    }
    for (id, serial) in newer.iter().zip(100..) {
        match world.end(id).await? {
            None => {}
            Some((end, job)) => ensure!(end == Status::Completed, "{job}"),
        }
        // Sent again, as a client does that hears 404.
        let again = world.acknowledged(plain(serial, 20)).await?;
        let end = world.end(&again).await?.map(|(end, _)| end);
        ensure!(end == Some(Status::Completed), "what is sent again is done: {end:?}");
    }
    Ok(())
}
