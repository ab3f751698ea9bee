//! Invariant 8 and the order of the queue; that of tenants is in [`super::fairness`].

use std::collections::HashSet;

use futures::future::try_join_all;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::options::Priority;
use verbatim_core::ports::{JobClient, JobLeases};

use super::virtual_world::tenant;
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// 64 : 8 : 1 while every tier has work, however many jobs are held at once.
pub async fn tiers_share_by_weight_and_none_starves<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let numbers = (0..150).flat_map(|number| Priority::ALL.map(|tier| (number, tier)));
    let works: Vec<_> = numbers.map(|(number, tier)| (format!("{number} {}", tier.as_str()), tier)).collect();
    try_join_all(works.iter().map(|(work, tier)| world.submit_at(work, *tier))).await?;
    let worker = world.worker();
    let mut served = Vec::new();
    for held in [1, 7, 30, 35, 50, 23] {
        for lease in world.claim(&worker, held).await? {
            served.push(tier_of(&lease.audio.sha256)?);
            world.complete(&lease).await?;
        }
    }
    let share = |tier: Priority| served.iter().filter(|other| **other == tier).count();
    ensure_eq!(Priority::ALL.map(share), [128, 16, 2], "jobs of each tier among the first 146");
    world.audit().await
}

fn tier_of(work: &str) -> Verdict<Priority> {
    let found = Priority::ALL.into_iter().find(|tier| work.ends_with(tier.as_str()));
    found.ok_or_else(|| Violation::new(format!("a lease came with the audio of another job: {work}")))
}

/// First in, first out.
pub async fn within_a_tier_the_first_is_served_first<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let works: Vec<_> = (0..20).map(|number| format!("talk {number:02}")).collect();
    for work in &works {
        world.ticket(work).await?;
    }
    let leases = world.claim(&world.worker(), 100).await?;
    let served: Vec<_> = leases.into_iter().map(|lease| lease.audio.sha256).collect();
    ensure_eq!(served, works, "the order of service");
    world.audit().await
}

/// Who is in a hurry takes others along.
pub async fn attaching_raises_the_tier<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.submit_at("patient", Priority::Normal).await?;
    let shared = world.submit_at("shared", Priority::Low).await?;
    world.submit_at("shared", Priority::High).await?;
    ensure_eq!(world.get(&shared).await?.priority, Priority::High, "the tier after attaching");
    ensure_eq!(world.claim_one().await?.audio.sha256, "shared", "the first to be served");
    // A patient one does not slow the others down.
    let urgent = world.submit_at("urgent", Priority::High).await?;
    world.submit_at("urgent", Priority::Low).await?;
    ensure_eq!(world.get(&urgent).await?.priority, Priority::High, "the tier after a patient one attached");
    world.audit().await
}

/// The number that clients see while they wait.
pub async fn the_place_in_the_queue_counts_those_ahead<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = world.submit("first").await?.submission;
    let second = world.submit("second").await?.submission;
    ensure_eq!(first.queue_position, Some(0), "the place of the first");
    ensure_eq!(second.queue_position, Some(1), "the place of the second");
    world.submit_at("urgent", Priority::High).await?;
    ensure_eq!(world.get(&second.id).await?.queue_position, Some(2), "the place after an urgent one came");
    world.claim_one().await?;
    world.claim_one().await?;
    let first = world.get(&first.id).await?;
    ensure_eq!(first.status, SubmissionStatus::Processing, "the first by now");
    ensure_eq!(first.queue_position, None, "the place of one that is worked on");
    ensure_eq!(world.get(&second.id).await?.queue_position, Some(0), "the place at last");
    // In a long queue, too, each has a place of its own.
    let works: Vec<_> = (0..600).map(|number| format!("talk {number}")).collect();
    let tickets = try_join_all(works.iter().map(|work| world.ticket(work))).await?;
    let queued = try_join_all(tickets.iter().map(|ticket| world.get(ticket))).await?;
    let mut places: Vec<_> = queued.iter().filter_map(|submission| submission.queue_position).collect();
    places.sort_unstable();
    ensure_eq!(places, (1..=600).collect::<Vec<u64>>(), "the places in a long queue");
    world.audit().await
}

/// Behind several tenants, each turn of one's own counts once for each of them, and never more than they have.
pub async fn the_place_in_the_queue_counts_turns_of_other_tenants<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for (name, jobs) in [("many", 40), ("few", 3)] {
        let whose = tenant(name)?;
        let works: Vec<_> = (0..jobs).map(|number| format!("talk {number}")).collect();
        try_join_all(works.iter().map(|work| world.store.submit(world.upload_of(&whose, work, 10)))).await?;
    }
    let mut places = Vec::new();
    for number in 0..30 {
        let place = world.submit(&format!("talk {number}")).await?.submission.queue_position;
        places.extend(place);
    }
    // Its own rank and two others' turns each, until all 43 of theirs are served.
    let expected: Vec<u64> = (0..30).map(|rank| rank + (2 * (rank + 1)).min(43)).collect();
    ensure_eq!(places, expected, "the places of one tenant's jobs");
    world.audit().await
}

/// Workers that claim at the same moment get different jobs, and all jobs are given.
pub async fn no_job_is_claimed_twice_at_once<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let uploads = (0..60).map(|number| world.store.submit(world.upload(&format!("talk {number}"))));
    try_join_all(uploads).await?;
    let workers: Vec<_> = (0..20).map(|_| world.worker()).collect();
    let requests: Vec<_> = (0..80).map(|number| world.request(&workers[number % 20], number < 20)).collect();
    let claims = requests.into_iter().map(|request| world.store.claim(request));
    let leases: Vec<_> = try_join_all(claims).await?.into_iter().flatten().collect();
    let jobs: HashSet<_> = leases.iter().map(|lease| lease.token.job_id.clone()).collect();
    ensure_eq!((leases.len(), jobs.len()), (60, 60), "leases and jobs under lease");
    ensure!(
        leases.iter().all(|lease| lease.attempt == 1 && !lease.alone),
        "all are first attempts in company"
    );
    world.audit().await
}
