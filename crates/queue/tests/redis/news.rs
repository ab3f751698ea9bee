//! What is published: a watcher that hears nothing looks again after some seconds, so the suite does not see what is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use verbatim_core::event::Stage;
use verbatim_core::job::Report;
use verbatim_core::ports::JobLeases;
use verbatim_queue::conformance::World;

use crate::support::RedisHarness;

#[tokio::test]
async fn each_step_of_a_job_is_published() -> Result<()> {
    let harness = RedisHarness::new();
    let world = World::open(&harness).await?;
    let mut beside = harness.beside();
    let mut channel = beside.as_pubsub();
    channel.set_read_timeout(Some(Duration::from_secs(10)))?;
    channel.subscribe(format!("{{{}}}:news", harness.prefix()))?;
    let mut heard = |step: &str| -> Result<()> {
        let message =
            channel.get_message().with_context(|| format!("nothing was published of the {step}"))?;
        let ids: String = message.get_payload()?;
        ensure!(!ids.is_empty(), "the news of the {step} names no job");
        Ok(())
    };
    let id = world.ticket("talk").await?;
    heard("submission")?;
    let lease = world.claim_one().await?;
    heard("claim")?;
    let report = Report { progress: Some((0.5, Stage::Transcribing)), ..Report::default() };
    ensure!(world.store.report(&lease.token, report).await?, "the report was refused");
    heard("report")?;
    world.cancel(&id).await?;
    heard("cancellation")?;
    world.complete(&lease).await?;
    heard("end")?;
    Ok(())
}
