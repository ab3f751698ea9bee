//! Invariant 7, its first half: tenants of a tier share it by seconds of audio.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::TenantId;
use verbatim_core::job::Lease;
use verbatim_core::ports::{JobClient, JobLeases};

use super::virtual_world::tenant;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// Queues `jobs` jobs of the tenant, each estimated to last so long.
async fn queue<H: Harness>(world: &World<'_, H>, whose: &TenantId, jobs: usize, secs: u64) -> Verdict {
    let works: Vec<_> = (0..jobs).map(|number| format!("talk {number}")).collect();
    // The first comes first; the order of the others, which are submitted at once, is the store's.
    let mut submitting = works.iter().map(|work| world.store.submit(world.upload_of(whose, work, secs)));
    if let Some(first) = submitting.next() {
        first.await?;
    }
    try_join_all(submitting).await?;
    Ok(())
}

/// Whose jobs these are.
fn whose(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| lease.tenant.as_str()).collect()
}

/// Ten thousand files of one tenant do not stand before another's one.
pub async fn a_late_tenant_is_among_the_next_two<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (many, one) = (tenant("many")?, tenant("one")?);
    queue(&world, &many, 2000, 10).await?;
    let worker = world.worker();
    for lease in world.claim(&worker, 50).await? {
        world.complete_after(&lease, 10).await?;
    }
    queue(&world, &one, 1, 10).await?;
    let next = world.claim(&worker, 2).await?;
    ensure!(
        whose(&next).contains(&"one"),
        "after 2,000 jobs of one tenant came another's: {:?}",
        whose(&next)
    );
    world.audit().await
}

/// However long their jobs are, backlogged tenants have had the same service, up to one largest job, at any time.
pub async fn backlogged_tenants_are_served_by_seconds<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let lengths = [("short", 5), ("middling", 20), ("long", 60)];
    for (name, secs) in lengths {
        queue(&world, &tenant(name)?, 1200 / secs as usize, secs).await?;
    }
    let mut served: BTreeMap<&str, u64> = lengths.map(|(name, _)| (name, 0)).into();
    let worker = world.worker();
    let mut claims = 0;
    while served.values().sum::<u64>() < 3000 {
        claims += 1;
        let leases = world.claim(&worker, [1, 3, 2][claims % 3]).await?;
        ensure!(!leases.is_empty(), "all tenants have work and nothing is given");
        for lease in leases {
            for (name, secs) in lengths.iter().filter(|(name, _)| *name == lease.tenant.as_str()) {
                *served.entry(name).or_default() += secs;
                world.complete_after(&lease, *secs).await?;
            }
            let (least, most) = (served.values().min(), served.values().max());
            let apart = most.zip(least).map_or(0, |(most, least)| most - least);
            ensure!(apart <= 60, "tenants are {apart} s apart, more than their largest job: {served:?}");
        }
    }
    world.audit().await
}

/// Who estimates too little pays when the job is done, and who estimates too much gets the rest back.
pub async fn wrong_estimates_are_settled<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    // Name, estimate, what it turns out to be.
    let jobs = [("honest", 40, 40), ("low", 1, 40), ("lofty", 500, 40)];
    for (name, estimate, _) in jobs {
        queue(&world, &tenant(name)?, 60, estimate).await?;
    }
    let mut served: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..90 {
        let lease = world.claim_one().await?;
        *served.entry(lease.tenant.to_string()).or_default() += 1;
        world.complete_after(&lease, 40).await?;
    }
    ensure_eq!(served.values().copied().collect::<Vec<_>>(), vec![30, 30, 30], "jobs of each: {served:?}");
    world.audit().await
}

/// What is given back late does not let a tenant catch up on turns that have passed.
pub async fn a_settlement_never_goes_back_in_time<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (a, b) = (tenant("a")?, tenant("b")?);
    queue(&world, &a, 1, 100).await?;
    for number in 0..10 {
        world.store.submit(world.upload_of(&a, &format!("small {number}"), 10)).await?;
    }
    queue(&world, &b, 40, 10).await?;
    let slow = world.claim_one().await?;
    ensure_eq!(slow.tenant, a, "the first by name, where nobody was served yet");
    for _ in 0..5 {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.tenant, b, "who is served while the other has had 100 s");
        world.complete_after(&lease, 10).await?;
    }
    // The tier is at 40 s, the start of the last job served; b goes on at 50.
    world.complete_after(&slow, 5).await?;
    let next = world.claim(&world.worker(), 5).await?;
    let of_b = whose(&next).iter().filter(|tenant| **tenant == "b").count();
    ensure_eq!(of_b, 2, "a goes on at 40 s, not at the 5 s that are its own: {:?}", whose(&next));
    world.audit().await
}

/// Upkeep between claim and finish changes nothing for the tenant, however far the others have come.
pub async fn upkeep_forgets_no_charge_that_may_be_settled<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (a, b) = (tenant("a")?, tenant("b")?);
    queue(&world, &a, 1, 10).await?;
    queue(&world, &b, 10, 10).await?;
    let slow = world.claim_one().await?;
    ensure_eq!(slow.tenant, a, "the first by name, where nobody was served yet");
    for _ in 0..3 {
        world.complete_after(&world.claim_one().await?, 10).await?;
    }
    world.settle().await?;
    // It has had 15 s in all, which is less than the 20 s at which the tier is: it owes nothing.
    world.complete_after(&slow, 15).await?;
    for work in ["later", "last"] {
        world.store.submit(world.upload_of(&a, work, 10)).await?;
    }
    let next = world.claim(&world.worker(), 2).await?;
    ensure_eq!(whose(&next), vec!["a", "a"], "at 20 and 30 s, while b goes on at 30 s");
    world.audit().await
}

/// An isolated job is served when it is its tenant's turn, and paid for like any other.
pub async fn an_isolated_job_is_served_in_turn<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (a, b) = (tenant("a")?, tenant("b")?);
    // Two workers died with it, which cost 20 s.
    world.isolate(world.upload_of(&a, "isolated", 10)).await?;
    queue(&world, &a, 3, 10).await?;
    queue(&world, &b, 6, 10).await?;
    let mut served = Vec::new();
    for _ in 0..6 {
        let lease = world.claim_one().await?;
        served.push((lease.tenant.to_string(), lease.alone));
        world.complete_after(&lease, 10).await?;
    }
    let served: Vec<_> = served.iter().map(|(whose, alone)| (whose.as_str(), *alone)).collect();
    let expected = [("b", false), ("a", true), ("b", false), ("a", false), ("b", false), ("a", false)];
    ensure_eq!(served, expected, "whose turn it is, and whether it runs alone");
    world.audit().await
}

/// A tenant that had nothing to do has saved nothing up.
pub async fn an_idle_tenant_does_not_save_up_turns<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (busy, late) = (tenant("busy")?, tenant("late")?);
    queue(&world, &busy, 130, 10).await?;
    let worker = world.worker();
    for lease in world.claim(&worker, 100).await? {
        world.complete_after(&lease, 10).await?;
    }
    queue(&world, &late, 20, 10).await?;
    let next = world.claim(&worker, 20).await?;
    let share = whose(&next).iter().filter(|name| **name == "late").count();
    ensure!((10..=11).contains(&share), "of 20 turns the late one has {share}: {:?}", whose(&next));
    world.audit().await
}

/// A job that was given back unfinished cost nothing; one that failed or whose worker vanished did.
pub async fn a_failure_of_its_own_is_paid_for_and_a_release_is_not<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (a, b) = (tenant("a")?, tenant("b")?);
    queue(&world, &a, 4, 10).await?;
    queue(&world, &b, 4, 10).await?;
    for _ in 0..3 {
        let lease = world.claim_one().await?;
        ensure_eq!(lease.tenant, a, "whose turn it is after a release");
        ensure_eq!(lease.audio.sha256, "talk 0", "the job that was given back is the next of its tenant");
        world.store.release(&lease.token).await?;
    }
    let failed = world.claim_one().await?;
    ensure_eq!(failed.tenant, a, "whose turn it is after three releases");
    world.fail(&failed, FailureKind::EngineFailed).await?;
    let vanished = world.claim_one().await?;
    ensure_eq!(vanished.tenant, b, "whose turn it is after a's attempt failed");
    world.pass(super::virtual_world::LEASE).await?;
    // Both have had 10 s: b's lost attempt is no reason to serve it before a.
    let next = world.claim_busy(&world.worker(), 2).await?;
    ensure_eq!(whose(&next), vec!["a", "b"], "after b's worker vanished");
    world.audit().await
}

/// Attempts that are given back give the charge back too: tenants with equal work have equal service, however often one of
/// them is sent back by a provider that has no room, or by a worker that cannot do it.
pub async fn refunded_attempts_give_the_charge_back<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let sent_back = [
        ("never", 0, FailureKind::Throttled),
        ("once", 1, FailureKind::Throttled),
        ("often", 3, FailureKind::EngineUnavailable),
        ("very-often", 10, FailureKind::StorageUnavailable),
    ];
    for (name, ..) in sent_back {
        queue(&world, &tenant(name)?, 30, 10).await?;
    }
    let mut left: BTreeMap<String, u32> = BTreeMap::new();
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    while served.values().sum::<u32>() < 60 {
        let lease = world.claim_one().await?;
        let whose = sent_back.into_iter().find(|(name, ..)| *name == lease.tenant.as_str());
        let (name, times, kind) = whose.ok_or_else(|| Violation::new("a job of nobody"))?;
        let left = left.entry(lease.token.job_id.to_string()).or_insert(times);
        if *left > 0 {
            *left -= 1;
            world.fail(&lease, kind).await?;
            world.pass(world.policy.retry.base_delay).await?;
        } else {
            *served.entry(name.to_owned()).or_default() += 1;
            world.complete_after(&lease, 10).await?;
        }
    }
    let counts: Vec<_> = served.values().copied().collect();
    ensure_eq!(counts, vec![15; 4], "jobs of each: {served:?}");
    world.audit().await
}
