//! Invariant 4 where the store is away: it was out of reach (stopped, frozen, cut off), its clock stepped, or only the workers
//! were cut off. A worker that lives keeps its job, and nobody is blamed.

use std::time::Duration;

use verbatim_core::failure::FailureKind;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::{JobState, Lease, Report, SubmissionStatus};
use verbatim_core::ports::jobs::{DeadLetterQuery, Finish, Renewal};
use verbatim_core::ports::{JobAdmin, JobLeases};

use super::virtual_world::{BETWEEN_TICKS, LEASE};
use super::{Harness, MOMENT, Verdict, Violation, World, ensure, ensure_eq};

/// Claims a job for a worker of its own.
async fn held<H: Harness>(world: &World<'_, H>, work: &str) -> Verdict<(SubmissionId, Lease)> {
    let id = world.ticket(work).await?;
    Ok((id, world.claim_one().await?))
}

async fn expect_held<H: Harness>(world: &World<'_, H>, lease: &Lease) -> Verdict {
    let renewal = world.renew(&lease.token).await?;
    ensure_eq!(
        renewal,
        Renewal::Held { expires_at: world.now().plus(LEASE) },
        "the renewal of a living holder"
    );
    Ok(())
}

/// Lets the job fail for good, and looks at how many crashes it was blamed for.
async fn expect_crashes<H: Harness>(world: &World<'_, H>, lease: &Lease, crashes: u32) -> Verdict {
    let done = world.fail(lease, FailureKind::BadAudio).await?;
    ensure_eq!(done, Finish::Done(JobState::Failed), "the end of the job that is looked at");
    let query = DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() };
    let letters = world.store.dead_letters(query).await?.letters;
    let counted = letters.iter().find(|letter| letter.job_id == lease.token.job_id);
    ensure_eq!(counted.map(|letter| letter.crashes), Some(crashes), "crashes of {}", lease.token.job_id);
    Ok(())
}

/// However long nobody reached the store, whoever ticks first: holders have a whole lease to renew in.
pub async fn an_outage_of_one_to_ten_leases_costs_no_living_worker_its_job<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    world.settle().await?;
    let (crowd_id, crowd) = (world.ticket("one of two").await?, world.worker());
    world.ticket("two of two").await?;
    let pair = world.claim(&crowd, 2).await?;
    let mut singles = vec![held(&world, "with a whole lease left").await?];
    world.pass(LEASE - MOMENT).await?;
    for lease in &pair {
        expect_held(&world, lease).await?;
    }
    singles.push(held(&world, "claimed last").await?);
    for leases in 1..=10_u32 {
        // The renewals of all were due at the moment in which the store went.
        world.away(LEASE * leases);
        let found = world.settle().await?;
        ensure_eq!(found.away, Some(LEASE * leases), "how long the store was away, as upkeep notices");
        // API nodes are back at once, workers only just in time.
        let until_then = world.pass(LEASE - MOMENT).await?;
        ensure_eq!(
            (found.lapsed + until_then.lapsed, until_then.failed),
            (0, 0),
            "what was taken back after {leases}"
        );
        for lease in pair.iter().chain(singles.iter().map(|(_, lease)| lease)) {
            expect_held(&world, lease).await?;
        }
        // All is as before: the next outage begins.
    }
    for (id, lease) in &singles {
        ensure!(
            !world.claim(&world.worker(), 1).await?.iter().any(|_| true),
            "a held job was given to another worker"
        );
        ensure_eq!(world.get(id).await?.attempt, 1, "attempts");
        expect_crashes(&world, lease, 0).await?;
    }
    for lease in &pair {
        ensure_eq!(
            world.complete(lease).await?,
            Finish::Done(JobState::Completed),
            "a job that was held all along"
        );
    }
    world.expect(&crowd_id, SubmissionStatus::Completed).await?;
    world.audit().await
}

/// After an outage, the job of a worker that died in it is given on within two leases.
pub async fn who_died_in_an_outage_is_found_dead_a_lease_after_it<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.settle().await?;
    let (id, _) = held(&world, "left behind").await?;
    world.away(LEASE * 3);
    ensure_eq!(world.pass(LEASE - MOMENT).await?.lapsed, 0, "leases taken back while holders may come back");
    ensure_eq!(world.pass(MOMENT).await?.lapsed, 1, "leases taken back a lease after the outage");
    world.until_due().await?;
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await
}

/// A store that is hardly ever there does not keep a dead worker's job for ever.
pub async fn a_store_that_comes_and_goes_still_finds_the_dead<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.settle().await?;
    let (id, _) = held(&world, "left behind").await?;
    let (other_id, other) = held(&world, "renewed whenever it is there").await?;
    let mut lapsed = 0;
    for _ in 0..12 {
        world.away(LEASE);
        lapsed += world.settle().await?.lapsed;
        expect_held(&world, &other).await?;
    }
    ensure_eq!(lapsed, 1, "leases taken back");
    world.expect(&id, SubmissionStatus::Queued).await?;
    world.expect(&other_id, SubmissionStatus::Processing).await?;
    world.audit().await
}

/// A clock that is put forward is no reason to think that workers died; one that is put back keeps no job.
pub async fn steps_of_the_clock_take_no_job<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.settle().await?;
    let (_, lease) = held(&world, "talk").await?;
    let step = Duration::from_secs(600);
    for _ in 0..4 {
        world.clock.advance(step);
        ensure_eq!(world.settle().await?.lapsed, 0, "leases taken back after a step forward");
        world.pass(LEASE / 2).await?;
        expect_held(&world, &lease).await?;
    }
    world.clock.put_back(step);
    ensure_eq!(world.settle().await?.lapsed, 0, "leases taken back after a step back");
    world.pass(LEASE / 2).await?;
    expect_held(&world, &lease).await?;
    ensure_eq!(world.pass(LEASE - MOMENT).await?.lapsed, 0, "leases taken back before their end");
    ensure_eq!(world.pass(MOMENT).await?.lapsed, 1, "leases taken back at their end");
    world.audit().await
}

/// A worker that alone was cut off goes on with its job if nobody has taken it meanwhile, whichever of its calls comes
/// first; the crash that was counted is uncounted.
pub async fn a_worker_that_was_cut_off_goes_on_with_what_nobody_took<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let alone = world.policy.retry.base_delay;
    for leases in [1, 3, 10] {
        for pause in [Duration::ZERO, alone] {
            let (id, lease) = held(&world, &format!("renewed after {leases} {pause:?}")).await?;
            // Others tick all the time.
            ensure_eq!(world.pass(LEASE * leases + pause).await?.lapsed, 1, "leases taken back");
            expect_held(&world, &lease).await?;
            world.expect(&id, SubmissionStatus::Processing).await?;
            ensure_eq!(world.get(&id).await?.attempt, 1, "the attempt that goes on");
            let seen = world.pass(LEASE - MOMENT).await?;
            ensure_eq!(
                (seen.lapsed, seen.revived),
                (0, 1),
                "leases taken back that were renewed, and revived"
            );
            expect_crashes(&world, &lease, 0).await?;
        }
    }
    let (id, lease) = held(&world, "reported").await?;
    world.pass(LEASE).await?;
    ensure!(
        world.store.report(&lease.token, Report::default()).await?,
        "the report of a living worker is refused"
    );
    world.expect(&id, SubmissionStatus::Processing).await?;
    expect_crashes(&world, &lease, 0).await?;
    let (id, lease) = held(&world, "completed").await?;
    world.pass(LEASE).await?;
    ensure_eq!(world.complete(&lease).await?, Finish::Done(JobState::Completed), "a late completion");
    ensure_eq!(world.complete(&lease).await?, Finish::Done(JobState::Completed), "the same once more");
    world.expect(&id, SubmissionStatus::Completed).await?;
    let (id, lease) = held(&world, "released").await?;
    world.pass(LEASE).await?;
    let released = world.store.release(&lease.token).await?;
    ensure_eq!(released, Finish::Done(JobState::Queued), "a late release");
    ensure_eq!(world.renew(&lease.token).await?, Renewal::Lost, "a renewal of what was released");
    let again = world.claim_one().await?;
    ensure_eq!((again.attempt, again.alone), (1, false), "the attempt after it, and whether it runs alone");
    world.complete(&again).await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    world.audit().await
}

/// When another worker has the job by then, the first one hears that its lease is lost; that it lives is counted all
/// the same.
pub async fn a_worker_that_comes_back_late_is_uncounted<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (_, first) = held(&world, "talk").await?;
    world.die().await?;
    world.claim_one().await?;
    world.die().await?;
    let third = world.claim_one().await?;
    // The second one died; the first and the third live.
    ensure_eq!(world.renew(&first.token).await?, Renewal::Lost, "the renewal of a lease that another has");
    ensure_eq!(world.renew(&first.token).await?, Renewal::Lost, "the same once more");
    ensure_eq!(world.complete(&first).await?, Finish::Stale, "its completion");
    ensure_eq!(world.settle().await?.revived, 1, "leases taken from a worker that lives");
    ensure_eq!(world.settle().await?.revived, 0, "the same a moment later");
    expect_held(&world, &third).await?;
    expect_crashes(&world, &third, 1).await?;
    let (_, first) = held(&world, "another").await?;
    world.die().await?;
    let second = world.store.claim(world.request(&world.worker(), true)).await?;
    let second = second.ok_or_else(|| Violation::new("the job is there to claim"))?;
    ensure!(!world.store.report(&first.token, Report::default()).await?, "a stale report was accepted");
    expect_crashes(&world, &second, 0).await?;
    world.audit().await
}

/// A claim whose answer was lost is repeated once its worker reaches the store again, however late: it gets the lease that it
/// was given, if nobody has taken the job since, and the job is not blamed for a death.
pub async fn a_claim_repeated_after_a_cut_off_counts_no_death<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let alone = world.policy.retry.base_delay;
    for leases in [1, 3, 10] {
        for pause in [Duration::ZERO, alone] {
            let id = world.ticket(&format!("claimed again after {leases} {pause:?}")).await?;
            let request = world.request(&world.worker(), true);
            let lost = world.store.claim(request.clone()).await?;
            // Others tick all the time.
            ensure_eq!(world.pass(LEASE * leases + pause).await?.lapsed, 1, "leases taken back");
            let given = Lease { expires_at: world.now().plus(LEASE), ..needed(lost)? };
            for call in ["the claim, repeated", "the same once more"] {
                ensure_eq!(world.store.claim(request.clone()).await?, Some(given.clone()), "{call}");
            }
            world.expect(&id, SubmissionStatus::Processing).await?;
            expect_held(&world, &given).await?;
            expect_crashes(&world, &given, 0).await?;
        }
    }
    // Another worker has the job by then.
    world.ticket("taken").await?;
    let request = world.request(&world.worker(), true);
    needed(world.store.claim(request.clone()).await?)?;
    world.die().await?;
    let second = world.claim_one().await?;
    ensure_eq!(world.store.claim(request).await?, None, "a claim of what another has");
    expect_held(&world, &second).await?;
    expect_crashes(&world, &second, 0).await?;
    // The store was away for longer than a claim is remembered while it is there.
    world.ticket("claimed before an outage").await?;
    let request = world.request(&world.worker(), true);
    let lost = needed(world.store.claim(request.clone()).await?)?;
    world.away(Duration::from_secs(3600));
    world.settle().await?;
    let again = needed(world.store.claim(request).await?)?;
    ensure_eq!(again.token, lost.token, "the lease of a claim from before the outage");
    world.audit().await
}

fn needed(lease: Option<Lease>) -> Verdict<Lease> {
    lease.ok_or_else(|| Violation::new("there is a job to claim"))
}

/// Ticks that come as often as they should are no gap: leases that nobody renews are taken back at their end.
pub async fn a_store_that_was_there_extends_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.settle().await?;
    held(&world, "talk").await?;
    let mut seen = world.pass(LEASE - BETWEEN_TICKS).await?;
    seen.add(world.pass(BETWEEN_TICKS).await?);
    ensure_eq!((seen.lapsed, seen.extended, seen.away), (1, 0, None), "what upkeep did");
    world.audit().await
}
