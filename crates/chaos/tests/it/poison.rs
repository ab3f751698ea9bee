//! A file that kills whoever hears it.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use verbatim_chaos::check::check_clients;
use verbatim_chaos::cluster::Settings;
use verbatim_chaos::sound::{Mark, Sound};

use crate::support::{World, plain, settings};

/// SIGABRT.
const ABORTED: i32 = 6;

#[tokio::test]
async fn poison_is_a_dead_letter_after_its_third_crash_alone_and_innocents_do_not_pay() -> Result<()> {
    let world = World::new(Settings { workers: 2, ..settings() }).await?;
    // They are at work for longer than the poison takes to act, so that it kills beside them.
    let poison = Sound { mark: Mark::Abort { millis: 400 }, serial: 1_000 };
    let beside = try_join_all((0..6).map(|number| world.client(number, plain(number, 1_500))));
    let behind = async {
        let poisoned = world.client(1_000, poison).await?;
        let later =
            try_join_all((2_000..2_020).map(|number| world.client(number, plain(number, 20)))).await?;
        anyhow::Ok((poisoned, later))
    };
    let (mut histories, (poisoned, later)) = tokio::try_join!(beside, behind)?;
    for innocent in histories.iter().chain(&later) {
        let job = world.job(innocent.id().unwrap_or_default()).await?;
        let crashes = job.get("C").map_or("0", String::as_str);
        ensure!(crashes == "0", "an innocent has {crashes} crashes on its account");
    }
    let job = world.job(poisoned.id().unwrap_or_default()).await?;
    assert_eq!(job.get("C").map(String::as_str), Some("3"));
    let exits = world.cluster.workers.iter().flat_map(|worker| worker.exits());
    let aborted = exits.filter(|exit| exit.signal == Some(ABORTED)).count();
    assert!((3..=5).contains(&aborted), "three crashes alone and at most two beside others, not {aborted}");
    histories.push(poisoned);
    histories.extend(later);
    // Every innocent completed at its first attempt, with the right words; the poison failed as `worker_lost`.
    assert_eq!(check_clients(&histories).1, []);
    Ok(())
}
