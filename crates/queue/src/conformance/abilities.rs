//! Workers are given only what they can do, and a job that none of them can do says so.

use std::collections::BTreeMap;
use std::time::Duration;

use verbatim_core::class::{Abilities, JobClass, MOST_CLASSES};
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::WorkerId;
use verbatim_core::job::{Lease, NewSubmission, SubmissionStatus};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::jobs::ClaimRequest;
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};

use super::virtual_world::{LEASE, tenant};
use super::{Harness, Verdict, World, ensure, ensure_eq};

fn class(model: &str) -> JobClass {
    JobClass::of(&TranscribeOptions::for_model(model))
}

fn for_model(new: NewSubmission, model: &str) -> NewSubmission {
    NewSubmission { options: TranscribeOptions::for_model(model), ..new }
}

/// A claim of a worker with these models.
async fn claim<H: Harness>(
    world: &World<'_, H>,
    worker: &WorkerId,
    models: &[&str],
) -> Verdict<Option<Lease>> {
    let abilities = Abilities::of(models.iter().map(|model| class(model)));
    Ok(world.store.claim(ClaimRequest { abilities, ..world.request(worker, true) }).await?)
}

/// Two kinds of workers on one queue: each job begins with its first claim, in whatever order they ask, and the order within
/// a class is that of submission.
pub async fn no_job_goes_to_a_worker_that_cannot_do_it<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for number in 0..60 {
        let model = ["base", "tiny.en", "small"][number % 3];
        world.store.submit(for_model(world.upload(&format!("{number:02}")), model)).await?;
    }
    let kinds: [&[&str]; 3] = [&["tiny.en"], &["base"], &["small", "tiny.en"]];
    let mut begun: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // The first kind asks most.
    for round in 0.. {
        let models = kinds[[0, 0, 1, 0, 2][round % 5]];
        let Some(lease) = claim(&world, &world.worker(), models).await? else {
            if world.store.stats().await?.tiers.iter().all(|tier| tier.depth == 0) {
                break;
            }
            ensure!(round < 1000, "jobs are left that nobody is given");
            continue;
        };
        let model = lease.options.model.clone();
        ensure!(models.contains(&model.as_str()), "a worker with {models:?} was given {model}");
        ensure_eq!((lease.attempt, lease.token.fence.get()), (1, 1), "attempt and claims of a job");
        begun.entry(model).or_default().push(lease.audio.sha256.clone());
        world.complete(&lease).await?;
    }
    for works in begun.values() {
        ensure!(works.len() == 20 && works.is_sorted(), "the order within a class: {works:?}");
    }
    world.audit().await
}

/// Who had to wait for another kind of worker has not saved up turns with this one.
pub async fn a_tenant_that_no_worker_could_serve_has_saved_up_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (waits, served) = (tenant("a-waits")?, tenant("b-served")?);
    world.store.submit(for_model(world.upload_of(&waits, "for base", 10), "base")).await?;
    for number in 0..200 {
        world.store.submit(world.upload_of(&served, &format!("talk {number}"), 10)).await?;
    }
    let worker = world.worker();
    for _ in 0..100 {
        let lease = claim(&world, &worker, &["tiny.en"]).await?;
        ensure!(lease.is_some_and(|lease| lease.tenant == served), "the only one who can be served");
    }
    for number in 0..20 {
        world.store.submit(world.upload_of(&waits, &format!("talk {number}"), 10)).await?;
    }
    let mut of_waits = 0;
    for _ in 0..20 {
        let lease = claim(&world, &worker, &["tiny.en"]).await?;
        of_waits += u64::from(lease.is_some_and(|lease| lease.tenant == waits));
    }
    ensure!((10..=11).contains(&of_waits), "of 20 turns the one that waited has {of_waits}");
    world.audit().await
}

/// A job says what it waits for while no worker there can do it, and the figures count it.
pub async fn a_job_that_no_worker_can_do_says_what_it_waits_for<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.store.submit(for_model(world.upload("talk"), "base")).await?.submission.id;
    let waits = Some("a worker with model base".to_owned());
    ensure_eq!(world.get(&id).await?.waiting_for, waits, "what it waits for while there is no worker");
    claim(&world, &world.worker(), &["tiny.en"]).await?;
    ensure_eq!(
        world.get(&id).await?.waiting_for,
        waits,
        "what it waits for beside a worker that cannot do it"
    );
    ensure_eq!(world.list().await?[0].waiting_for, waits, "the same in lists");
    ensure!(!world.store.is_served(&class("base")).await?, "nobody does such jobs");
    ensure!(world.store.is_served(&class("tiny.en")).await?, "somebody does others");
    ensure_eq!(world.store.stats().await?.unserved, vec![(class("base"), 1)], "jobs that nobody can do");
    // A worker that holds something else is there all the same.
    world.store.submit(world.upload("other")).await?;
    let able = world.worker();
    let held = claim(&world, &able, &["tiny.en", "base"]).await?;
    ensure!(held.is_some_and(|lease| lease.options.model == "base"), "the first job of both");
    let next = world.store.submit(for_model(world.upload("next"), "base")).await?.submission;
    ensure_eq!(next.waiting_for, None, "what one waits for that a busy worker can do");
    ensure_eq!(world.store.stats().await?.unserved, vec![], "jobs that nobody can do");
    world.clock.advance(LEASE);
    ensure_eq!(world.get(&next.id).await?.waiting_for, waits, "what it waits for once that one is gone");
    world.audit().await
}

/// A job that waits for its retry tells it as well; one that runs or has ended waits for nothing.
pub async fn only_waiting_jobs_wait_for_a_worker<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.store.submit(for_model(world.upload("talk"), "base")).await?.submission.id;
    let lease = claim(&world, &world.worker(), &["base"]).await?;
    let lease = lease.ok_or_else(|| super::Violation::new("there is a job to claim"))?;
    world.clock.advance(LEASE - Duration::from_secs(1));
    world.renew(&lease.token).await?;
    world.clock.advance(LEASE - Duration::from_secs(1));
    ensure_eq!(world.get(&id).await?.waiting_for, None, "what a running job waits for");
    world.fail(&lease, FailureKind::EngineFailed).await?;
    ensure_eq!(world.get(&id).await?.waiting_for, None, "its worker was heard of when it renewed");
    world.clock.advance(LEASE);
    let told = world.get(&id).await?;
    ensure_eq!((told.status, told.waiting_for.is_some()), (SubmissionStatus::Queued, true), "a delayed job");
    world.cancel(&id).await?;
    ensure_eq!(world.get(&id).await?.waiting_for, None, "what a cancelled job waits for");
    world.audit().await
}

/// Whatever clients ask for, a claim looks at so many lanes at most; jobs of further classes are offered to all workers.
pub async fn too_many_classes_are_told_apart_no_longer<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let classes = 2 * MOST_CLASSES + 10;
    for number in 0..classes {
        world.store.submit(for_model(world.upload(&format!("{number}")), &format!("model {number}"))).await?;
    }
    let mut given = 0;
    while claim(&world, &world.worker(), &["none of these"]).await?.is_some() {
        given += 1;
        let all = world.list().await?;
        let waiting = all.iter().filter(|submission| submission.waiting_for.is_some()).count();
        ensure_eq!(waiting, classes - 10, "jobs that no worker is offered, after {given} claims");
    }
    ensure_eq!(given, 10, "jobs that any worker is offered");
    let rest = world.claim(&world.worker(), classes).await?;
    ensure_eq!(rest.len(), classes - 10, "jobs that a worker gets that can do everything");
    world.audit().await
}
