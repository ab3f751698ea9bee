//! How tenants share what a store may remember of their submissions (ADR 78).

use std::collections::BTreeSet;

use verbatim_core::job::Idempotency;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::DeleteOutcome;
use verbatim_core::ports::{JobClient, JobUpkeep};
use verbatim_core::{ErrorKind, Refusal};

use super::virtual_world::tenant;
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// The submissions that the store may remember.
const LIMIT: u64 = 24;
/// Those of a tenant that is alone.
const ALONE: usize = 21;

fn policy() -> StorePolicy {
    StorePolicy { max_remembered_of_all: Some(LIMIT), ..StorePolicy::default() }
}

/// As many submissions as the store takes of the tenant, at most so many, and why it takes no more.
async fn fill<H: Harness>(
    world: &World<'_, H>,
    name: &str,
    most: usize,
) -> Verdict<(usize, Option<Refusal>)> {
    let whose = tenant(name)?;
    for taken in 0..most {
        let work = format!("{taken} at {}", world.now().as_millis());
        if let Err(error) = world.store.submit(world.upload_of(&whose, &work, 1)).await {
            return Ok((taken, error.refusal()));
        }
    }
    Ok((most, None))
}

/// One tenant alone stops at seven eighths, and the next one finds the rest.
pub async fn a_tenant_that_is_alone_leaves_an_eighth_for_the_next<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    ensure_eq!(fill(&world, "ann", 100).await?, (ALONE, Some(Refusal::StoreShare)), "of a tenant alone");
    ensure_eq!(fill(&world, "bob", 100).await?, (3, Some(Refusal::StoreLimit)), "of the next one");
    let stats = world.store.stats().await?;
    ensure_eq!((stats.submissions, stats.max_submissions, stats.holders), (LIMIT, Some(LIMIT), 2), "figures");
    for name in ["ann", "cat"] {
        let refused = world.store.submit(world.upload_of(&tenant(name)?, "one more", 1)).await.err();
        let told = refused
            .map(|error| (error.kind(), error.refusal(), error.retry_after().is_some(), error.is_definite()));
        let expected = Some((ErrorKind::Unavailable, Some(Refusal::StoreLimit), true, true));
        ensure_eq!(told, expected, "the answer to {name}");
    }
    world.audit().await
}

/// Where three hold some, none gets beyond a third of the last eighth; what is held stays.
pub async fn once_seven_eighths_are_remembered_no_tenant_gets_beyond_an_equal_share<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    ensure_eq!(fill(&world, "ann", 10).await?, (10, None), "there is room for all");
    ensure_eq!(fill(&world, "bob", 7).await?, (7, None), "there is room for all");
    ensure_eq!(fill(&world, "cat", 4).await?, (4, None), "there is room for all, up to 21");
    ensure_eq!(fill(&world, "ann", 100).await?, (0, Some(Refusal::StoreShare)), "with ten of eight");
    ensure_eq!(fill(&world, "bob", 100).await?, (1, Some(Refusal::StoreShare)), "with seven of eight");
    ensure_eq!(fill(&world, "dan", 1).await?, (1, None), "one that had none");
    ensure_eq!(fill(&world, "cat", 100).await?, (1, Some(Refusal::StoreLimit)), "with four of six");
    world.audit().await
}

/// A repetition is no submission of its own; one that is attached or answered at once is one.
pub async fn submissions_count_once_however_they_are_answered<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    let mut first = world.upload("talk");
    first.idempotency = Some(Idempotency { key: "name".to_owned(), body_digest: "body".to_owned() });
    world.store.submit(first.clone()).await?;
    for _ in 0..9 {
        ensure!(world.submit("talk").await?.submission.deduplicated, "it is attached");
    }
    world.work_off_one().await?;
    for _ in 10..ALONE {
        ensure!(world.submit("talk").await?.submission.cached, "it is answered from the result");
    }
    let stats = world.store.stats().await?;
    ensure_eq!((stats.submissions, stats.holders), (ALONE as u64, 1), "submissions of how many tenants");
    let mut waits = BTreeSet::new();
    for work in ["talk", "another", "a third"] {
        let refused = world.store.submit(world.upload(work)).await.err();
        let told = refused.as_ref().map(|error| (error.kind(), error.refusal()));
        ensure_eq!(told, Some((ErrorKind::Throttled, Some(Refusal::StoreShare))), "the answer to {work}");
        waits.insert(refused.and_then(|error| error.retry_after()));
    }
    ensure!(!waits.contains(&None), "all are told when to come back");
    ensure!(world.store.submit(first.clone()).await?.replayed, "the same ticket is answered again");
    let again = world.upload("talk");
    let again =
        world.store.submit(verbatim_core::job::NewSubmission { idempotency: first.idempotency, ..again });
    ensure!(again.await?.replayed, "the same request is answered again");
    world.audit().await
}

/// What a client deletes and what expires makes room, and tenants of which nothing is left contend no longer.
pub async fn what_is_forgotten_makes_room<H: Harness>(harness: &H) -> Verdict {
    let world = World::with_policy(harness, policy()).await?;
    let done = world.ticket("talk").await?;
    world.work_off_one().await?;
    ensure_eq!(fill(&world, "ann", 19).await?, (19, None), "ann's");
    ensure_eq!(fill(&world, "bob", 1).await?, (1, None), "bob's");
    ensure_eq!(fill(&world, "ann", 1).await?, (0, Some(Refusal::StoreShare)), "of three tenants");
    let deleted = world.store.delete(&world.tenant(), &done).await?;
    ensure_eq!(deleted, Some(DeleteOutcome::Removed), "the only one of its tenant");
    ensure_eq!(world.store.stats().await?.holders, 2, "tenants that are left");
    ensure_eq!(fill(&world, "ann", 2).await?, (1, Some(Refusal::StoreShare)), "the place that came free");
    world.pass(world.policy.max_age).await?;
    world.pass(world.policy.result_retention).await?;
    let stats = world.store.stats().await?;
    ensure_eq!((stats.submissions, stats.holders), (0, 0), "submissions and tenants when all is forgotten");
    ensure_eq!(fill(&world, "bob", 100).await?, (ALONE, Some(Refusal::StoreShare)), "of a tenant alone");
    world.audit().await
}
