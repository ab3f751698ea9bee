//! Jobs that must run alone and have waited too long: one worker is kept for them, and only one.

use std::time::Duration;

use verbatim_core::ids::WorkerId;
use verbatim_core::job::{Lease, NewSubmission};
use verbatim_core::options::Priority;
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::jobs::ClaimRequest;

use super::virtual_world::LEASE;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// Claims one job under a lease that outlasts the check.
async fn claim<H: Harness>(world: &World<'_, H>, worker: &WorkerId, idle: bool) -> Verdict<Option<Lease>> {
    let request = ClaimRequest { lease: LEASE * 1000, ..world.request(worker, idle) };
    Ok(world.store.claim(request).await?)
}

/// A job in the tier that must run alone and has waited longer than the store's patience, with a backlog behind it.
async fn overdue<H: Harness>(world: &World<'_, H>, tier: Priority) -> Verdict {
    let new = world.upload(&format!("suspect {}", tier.as_str()));
    world.isolate(NewSubmission { priority: tier, ..new }).await?;
    for number in 0..20 {
        world.submit_at(&format!("harmless {number}"), Priority::High).await?;
    }
    world.clock.advance(world.policy.alone_patience + super::MOMENT);
    Ok(())
}

/// The first busy worker that asks is kept until it is idle; the others go on.
pub async fn one_worker_is_kept_for_an_overdue_suspect_and_the_others_go_on<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    let (kept, other) = (world.worker(), world.worker());
    for number in 0..2 {
        world.ticket(&format!("earlier {number}")).await?;
    }
    let held = claim(&world, &kept, true).await?.ok_or_else(|| Violation::new("there is a job to claim"))?;
    ensure!(claim(&world, &other, true).await?.is_some(), "the other worker is busy too");
    overdue(&world, Priority::Low).await?;
    ensure_eq!(claim(&world, &kept, false).await?, None, "what the first busy worker gets");
    for _ in 0..3 {
        ensure!(claim(&world, &other, false).await?.is_some(), "another busy worker goes on");
        ensure_eq!(claim(&world, &kept, false).await?, None, "what the kept worker gets while it is busy");
    }
    world.complete(&held).await?;
    let alone = claim(&world, &kept, true).await?;
    ensure!(alone.as_ref().is_some_and(|lease| lease.alone), "idle, it gets the suspect: {alone:?}");
    ensure!(claim(&world, &other, false).await?.is_some(), "a busy worker goes on afterwards");
    world.audit().await
}

/// A kept worker that never comes back keeps the place for as long as the store is patient, then another one does.
pub async fn a_kept_workers_time_runs_out<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let workers = [world.worker(), world.worker()];
    for (number, worker) in workers.iter().enumerate() {
        world.ticket(&format!("earlier {number}")).await?;
        ensure!(claim(&world, worker, true).await?.is_some(), "worker {number} is busy");
    }
    overdue(&world, Priority::Normal).await?;
    let [first, second] = &workers;
    ensure_eq!(claim(&world, first, false).await?, None, "what the first one gets");
    world.clock.advance(world.policy.alone_patience - super::MOMENT);
    ensure!(claim(&world, second, false).await?.is_some(), "the second goes on in the last moment");
    world.clock.advance(super::MOMENT);
    ensure_eq!(claim(&world, second, false).await?, None, "what it gets when the first one's time is over");
    ensure!(claim(&world, first, false).await?.is_some(), "the first one goes on then");
    world.audit().await
}

/// An idle worker takes it whatever the tier, and a worker that was kept is free again.
pub async fn an_idle_worker_takes_an_overdue_suspect_before_any_other_job<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("earlier").await?;
    let busy = world.worker();
    let held = claim(&world, &busy, true).await?;
    overdue(&world, Priority::Low).await?;
    ensure_eq!(claim(&world, &busy, false).await?, None, "what the busy worker gets");
    let alone = claim(&world, &world.worker(), true).await?;
    ensure!(
        alone.as_ref().is_some_and(|lease| lease.alone),
        "an idle worker gets the suspect of the lowest tier: {alone:?}"
    );
    let one = claim(&world, &busy, false).await?;
    ensure!(one.is_some(), "the busy worker goes on, with no suspect left");
    let more = claim(&world, &busy, false).await?;
    for lease in held.iter().chain(&one).chain(&more) {
        world.complete(lease).await?;
    }
    world.audit().await
}

/// Of several, the one that has waited longest goes first.
pub async fn the_suspect_that_waited_longest_goes_first<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for tier in [Priority::Low, Priority::High] {
        world.submit_at(&format!("suspect {}", tier.as_str()), tier).await?;
    }
    for _ in 0..2 {
        for _ in 0..2 {
            world.claim_one().await?;
            world.pass(Duration::from_secs(5)).await?;
        }
        // The one of the high tier is claimed first, and is back first.
        for _ in 0..20 {
            world.pass(Duration::from_secs(5)).await?;
        }
    }
    world.submit_at("harmless", Priority::High).await?;
    for _ in 0..2 {
        world.pass(world.policy.alone_patience).await?;
    }
    for expected in ["suspect high", "suspect low"] {
        let alone = claim(&world, &world.worker(), true).await?;
        let work = alone.as_ref().map(|lease| lease.audio.sha256.as_str());
        ensure_eq!(work, Some(expected), "what an idle worker gets");
    }
    world.audit().await
}
