//! A master that hangs and is replaced by its copy.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::Instant;
use verbatim_chaos::check::check_clients;
use verbatim_chaos::cluster::Settings;
use verbatim_chaos::inspect;
use verbatim_chaos::node::Signal;
use verbatim_chaos::sentinel::DOWN_AFTER;
use verbatim_chaos::sound::{Mark, Sound};

use crate::support::{World, plain, settings};

/// What nodes may take to follow, beyond the time after which a master counts as down.
const FOLLOW: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_master_that_hangs_is_left_for_its_copy_and_no_job_is_lost_or_blamed() -> Result<()> {
    hangs().await?;
    Ok(())
}

/// How often a caller is refused meanwhile is counted by the job store's tests.
#[tokio::test]
async fn soak_a_master_that_hangs_is_left_in_time() -> Result<()> {
    for _ in 0..3 {
        let served = hangs().await?;
        ensure!(served <= DOWN_AFTER + FOLLOW, "nodes followed after {served:?}");
    }
    Ok(())
}

/// Answers after how long a job was done that was sent after the master hung.
async fn hangs() -> Result<Duration> {
    let world = World::new(Settings { workers: 2, sentinel: true, ..settings() }).await?;
    let cluster = &world.cluster;
    // At work when the master hangs, and waiting.
    let long = try_join_all((0..4).map(|serial| {
        let sound = Sound { mark: Mark::Long { windows: 20 }, serial };
        world.client(serial, sound)
    }));
    let waiting = try_join_all((10..40).map(|serial| world.client(serial, plain(serial, 200))));
    let failover = async {
        let held = async || Ok(cluster.held_by(0).await.unwrap_or(0) > 0);
        world.until("work to begin", held).await?;
        // Nothing is lost with the master: this is about those who talk to it.
        let copied = async || {
            let copies: u32 =
                cluster.look(|redis| Ok(redis::cmd("WAIT").arg(1).arg(100).query(redis)?)).await?;
            Ok(copies == 1)
        };
        world.until("the copy to follow", copied).await?;
        cluster.redis.lock().await.signal(Signal::Stop).await?;
        let hung = Instant::now();
        cluster.until_replaced().await?;
        let replaced = hung.elapsed();
        let first = world.client(1_000, plain(1_000, 20)).await?;
        anyhow::Ok((first, replaced, hung.elapsed()))
    };
    let (mut histories, waiting, (first, replaced, served)) = tokio::try_join!(long, waiting, failover)?;
    println!("the copy was the master after {replaced:?}, and a job was done after {served:?}");
    histories.extend(waiting);
    histories.push(first);
    assert_eq!(check_clients(&histories).1, []);
    let accounts = cluster.look(inspect::accounts).await?;
    let blamed: Vec<_> =
        accounts.iter().filter(|(_, account)| account.crashes > 0 || account.isolated).collect();
    ensure!(blamed.is_empty(), "no worker has died: {blamed:?}");
    Ok(served)
}
