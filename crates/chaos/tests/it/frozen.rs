//! A worker that is frozen for longer than its lease, and comes back.

use std::time::Duration;

use anyhow::{Context, Result};
use verbatim_chaos::check::check_clients;
use verbatim_chaos::cluster::{Cluster, LEASE, Settings};
use verbatim_chaos::inspect;
use verbatim_chaos::node::Signal;

use crate::support::{World, plain, settings};

#[tokio::test]
async fn a_frozen_worker_loses_its_job_in_time_and_publishes_nothing_when_it_wakes() -> Result<()> {
    let world = World::new(Settings { workers: 2, ..settings() }).await?;
    let cluster = &world.cluster;
    let zombie = async {
        let holder = loop {
            let held = [cluster.held_by(0).await.unwrap_or(0), cluster.held_by(1).await.unwrap_or(0)];
            match held.iter().position(|held| *held > 0) {
                Some(holder) => break holder,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        assert!(Cluster::signal(&cluster.workers, holder, Signal::Stop).await);
        // Redis's own time, as the leases have it.
        let (secs, micros): (u64, u64) = cluster.look(|redis| Ok(redis::cmd("TIME").query(redis)?)).await?;
        anyhow::Ok((holder, secs * 1000 + micros / 1000))
    };
    let (history, (holder, frozen_at)) = tokio::try_join!(world.client(1, plain(1, 1_000)), zombie)?;
    assert_eq!(check_clients(std::slice::from_ref(&history)).1, []);
    let job = world.job(history.id().context("it was accepted")?).await?;
    // A job that has ended keeps no time of its claims. The work itself takes a second.
    let ended_at: u64 = job["F"].parse()?;
    let waited = Duration::from_millis(ended_at.saturating_sub(frozen_at));
    assert!(waited <= LEASE + Duration::from_secs(6), "another worker had done it after {waited:?}");
    println!("frozen with a lease of {LEASE:?}, done by another after {waited:?}");

    assert!(Cluster::signal(&cluster.workers, holder, Signal::Cont).await);
    let stale = async || Ok(inspect::logs(&cluster.logs())?.1 >= 1);
    world.until("the zombie to notice", stale).await?;
    // What it may have written under its old lease is gone; what was published is the other's.
    let published = format!("results/{}/work_{}/{}-{}", job["rs"], job["id"], job["f"], inspect::nonce(&job));
    assert_eq!(job["f"], "2");
    let only_that = async || Ok(inspect::blobs(&cluster.room.blobs())? == [published.clone()].into());
    world.until("one result", only_that).await
}
