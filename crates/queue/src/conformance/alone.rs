//! Isolated jobs, which must run alone: which worker gets them, and how busy workers are reserved for them.

use std::time::Duration;

use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::ids::WorkerId;
use verbatim_core::job::{Lease, NewSubmission};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::policy::RESERVED_ONE_IN;
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::JobUpkeep;
use verbatim_core::ports::jobs::ClaimRequest;

use super::virtual_world::LEASE;
use super::{Harness, MOMENT, Verdict, Violation, World, ensure, ensure_eq};

/// Claims one job under a lease that outlasts the check.
async fn claim<H: Harness>(world: &World<'_, H>, worker: &WorkerId, idle: bool) -> Verdict<Option<Lease>> {
    let request = ClaimRequest { lease: LEASE * 1000, ..world.request(worker, idle) };
    Ok(world.store.claim(request).await?)
}

/// So many workers that each hold one job, under leases that outlast the check.
async fn busy_workers<H: Harness>(world: &World<'_, H>, count: usize) -> Verdict<Vec<(WorkerId, Lease)>> {
    let mut workers = Vec::new();
    for number in 0..count {
        world.ticket(&format!("earlier {number}")).await?;
        let worker = world.worker();
        let held = claim(world, &worker, true).await?;
        workers.push((worker, held.ok_or_else(|| Violation::new("there is a job to claim"))?));
    }
    Ok(workers)
}

/// An isolated job, with a backlog behind it.
async fn isolated_before_others<H: Harness>(world: &World<'_, H>) -> Verdict {
    world.isolate(world.upload("isolated")).await?;
    for number in 0..20 {
        world.ticket(&format!("harmless {number}")).await?;
    }
    Ok(())
}

/// The worker stays reserved however long its own job takes; no other one is, and none of them gets less.
pub async fn a_busy_worker_is_reserved_until_it_is_idle_and_the_others_go_on<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    let workers = busy_workers(&world, 2).await?;
    let [(reserved, held), (other, _)] = &workers[..] else {
        return Err(Violation::new("two workers are busy"));
    };
    isolated_before_others(&world).await?;
    ensure_eq!(world.store.stats().await?.isolated, 1, "isolated jobs that wait");
    ensure_eq!(claim(&world, reserved, false).await?, None, "what the first busy worker gets");
    for _ in 0..6 {
        world.clock.advance(Duration::from_secs(600));
        let one = claim(&world, other, false).await?;
        ensure!(one.is_some_and(|lease| !lease.alone), "another busy worker goes on");
        ensure_eq!(claim(&world, reserved, false).await?, None, "what the reserved worker gets meanwhile");
    }
    world.complete(held).await?;
    let alone = claim(&world, reserved, true).await?;
    ensure!(alone.as_ref().is_some_and(|lease| lease.alone), "idle, it gets the isolated job: {alone:?}");
    ensure_eq!(world.store.stats().await?.isolated, 0, "isolated jobs that wait while it runs");
    ensure_eq!(claim(&world, reserved, false).await?, None, "what it gets beside the isolated job");
    world.audit().await
}

/// A reserved worker that dies is replaced by the next one that asks.
pub async fn a_reservation_ends_with_its_worker<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let workers = busy_workers(&world, 1).await?;
    let [(other, _)] = &workers[..] else { return Err(Violation::new("one worker is busy")) };
    let dying = world.worker();
    isolated_before_others(&world).await?;
    let request = world.request(&dying, false);
    ensure_eq!(world.store.claim(request).await?, None, "what the first busy worker gets");
    ensure!(claim(&world, other, false).await?.is_some(), "another busy worker goes on");
    world.clock.advance(LEASE);
    ensure_eq!(
        claim(&world, other, false).await?,
        None,
        "what it gets when the reserved one was not heard of"
    );
    world.audit().await
}

/// A worker that only renews has stopped asking, as one does that is to be started afresh: it would hold its reservation for
/// as long as its own job takes, and no other worker would be reserved.
pub async fn a_reservation_ends_when_its_worker_asks_no_more<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let workers = busy_workers(&world, 2).await?;
    let [(reserved, held), (other, others)] = &workers[..] else {
        return Err(Violation::new("two workers are busy"));
    };
    isolated_before_others(&world).await?;
    let refused = world.store.claim(world.request(reserved, false)).await?;
    ensure_eq!(refused, None, "what the first busy worker gets");
    world.clock.advance(LEASE - MOMENT);
    world.renew(&held.token).await?;
    let more = claim(&world, other, false).await?;
    let more = more.ok_or_else(|| Violation::new("another busy worker goes on until the lease is over"))?;
    world.clock.advance(MOMENT);
    world.renew(&held.token).await?;
    ensure_eq!(claim(&world, other, false).await?, None, "what it gets once the first asks no more");
    ensure!(claim(&world, reserved, false).await?.is_some(), "the first one, back again, goes on");
    for lease in [others, &more] {
        world.complete(lease).await?;
    }
    let alone = claim(&world, other, true).await?;
    ensure!(alone.is_some_and(|lease| lease.alone), "idle, the other one gets the isolated job");
    world.audit().await
}

/// A worker whose abilities changed while it was reserved gets nothing that it cannot do.
pub async fn a_reservation_gives_nothing_that_its_worker_can_do_no_longer<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    let asking = |worker: &WorkerId, model: &str, idle| ClaimRequest {
        abilities: Abilities::of([JobClass::of(&TranscribeOptions::for_model(model))]),
        ..world.request(worker, idle)
    };
    let options = TranscribeOptions::for_model("base");
    world.isolate(NewSubmission { options, ..world.upload("isolated") }).await?;
    let worker = world.worker();
    ensure_eq!(world.store.claim(asking(&worker, "base", false)).await?, None, "what a busy worker gets");
    ensure_eq!(
        world.store.claim(asking(&worker, "tiny.en", true)).await?,
        None,
        "what it gets, idle, when it cannot do it any more"
    );
    let alone = world.store.claim(asking(&worker, "base", true)).await?;
    ensure!(alone.is_some_and(|lease| lease.alone), "it gets the isolated job when it can do it again");
    world.audit().await
}

/// What is left for no reservation ends it, and the worker goes on.
pub async fn an_idle_worker_takes_an_isolated_job_and_the_reserved_one_goes_on<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    let workers = busy_workers(&world, 1).await?;
    let [(reserved, _)] = &workers[..] else { return Err(Violation::new("one worker is busy")) };
    isolated_before_others(&world).await?;
    ensure_eq!(claim(&world, reserved, false).await?, None, "what the busy worker gets");
    let alone = claim(&world, &world.worker(), true).await?;
    ensure!(alone.is_some_and(|lease| lease.alone), "an idle worker gets the isolated job");
    let next = claim(&world, reserved, false).await?;
    ensure!(next.is_some_and(|lease| !lease.alone), "the busy one goes on");
    world.audit().await
}

/// Several isolated jobs have several workers, as long as most workers go on.
pub async fn one_worker_in_eight_is_reserved_at_most<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let most = 2;
    let workers = busy_workers(&world, most * RESERVED_ONE_IN as usize).await?;
    let news = (0..=most).map(|number| world.upload(&format!("isolated {number}")));
    world.isolate_all(news.collect()).await?;
    for number in 0..40 {
        world.ticket(&format!("harmless {number}")).await?;
    }
    // Those beside which the isolated jobs died are not there any more.
    let mut reserved = Vec::new();
    for (worker, held) in &workers {
        match claim(&world, worker, false).await? {
            None => reserved.push((worker, held)),
            Some(lease) => ensure!(!lease.alone, "a busy worker got an isolated job"),
        }
    }
    ensure_eq!(reserved.len(), most, "workers that got nothing, of {}", workers.len());
    let (first, held) = reserved[0];
    world.complete(held).await?;
    ensure!(claim(&world, first, true).await?.is_some_and(|lease| lease.alone), "the first takes its job");
    let next = &workers.iter().find(|(worker, _)| reserved.iter().all(|(other, _)| *other != worker));
    let (next, _) = next.ok_or_else(|| Violation::new("most are not reserved"))?;
    ensure_eq!(claim(&world, next, false).await?, None, "what the next one gets, for there is one job more");
    world.audit().await
}

/// Isolated jobs go to workers that can do them, and no other worker is reserved for them.
pub async fn only_a_worker_that_can_do_it_is_reserved<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let able = |model: &str| Abilities::of([JobClass::of(&TranscribeOptions::for_model(model))]);
    let asking = |worker: &WorkerId, model: &str, idle| ClaimRequest {
        lease: LEASE * 1000,
        abilities: able(model),
        ..world.request(worker, idle)
    };
    let options = TranscribeOptions::for_model("base");
    world.isolate(NewSubmission { options, ..world.upload("isolated") }).await?;
    for number in 0..4 {
        world.submit_at(&format!("harmless {number}"), Priority::Normal).await?;
    }
    let (tiny, base) = (world.worker(), world.worker());
    for idle in [true, false] {
        let one = world.store.claim(asking(&tiny, "tiny.en", idle)).await?;
        ensure!(one.is_some_and(|lease| !lease.alone), "a worker that cannot do it goes on");
    }
    ensure_eq!(world.store.claim(asking(&base, "base", false)).await?, None, "what a busy one gets that can");
    let alone = world.store.claim(asking(&base, "base", true)).await?;
    ensure!(alone.is_some_and(|lease| lease.alone), "idle, it gets the isolated job");
    world.audit().await
}
