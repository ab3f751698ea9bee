//! Invariant 7, its second half: what one tenant may take up, and that tenants do not meet.

use std::time::Duration;

use verbatim_core::ErrorKind;
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{TenantId, WorkerId};
use verbatim_core::job::{Idempotency, JobState, NewSubmission, TenantCaps};
use verbatim_core::model::ModelInfo;
use verbatim_core::options::Priority;
use verbatim_core::ports::jobs::{ClaimRequest, ListQuery};
use verbatim_core::ports::{JobClient, JobLeases};

use super::virtual_world::{LEASE, tenant};
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

fn running(most: u64) -> TenantCaps {
    TenantCaps { max_running: Some(most), max_queued: None }
}

/// However a running job ends its lease, one more may run then, and never two.
pub async fn no_more_jobs_run_than_the_cap_allows<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let capped = tenant("capped")?;
    let mut tickets = Vec::new();
    for number in 0..12 {
        let priority = Priority::ALL[number % 3];
        let new = world.upload_of(&capped, &format!("talk {number}"), 10);
        let new = NewSubmission { caps: running(2), priority, ..new };
        tickets.push(world.store.submit(new).await?.submission);
    }
    world.ticket("of another tenant").await?;
    let first = world.claim(&world.worker(), 10).await?;
    ensure_eq!(first.len(), 3, "two of the capped tenant's and the other's");
    let mut held: Vec<_> = first.into_iter().filter(|lease| lease.tenant == capped).collect();
    ensure_eq!(held.len(), 2, "jobs of the capped tenant");
    for way in ["complete", "fail", "fail for good", "release", "cancel", "vanish"] {
        ensure_eq!(
            world.claim(&world.worker(), 10).await?,
            vec![],
            "claims at the cap, before one may {way}"
        );
        let lease = held.remove(0);
        match way {
            "complete" => {
                world.complete(&lease).await?;
            }
            "fail" => {
                world.fail(&lease, FailureKind::EngineFailed).await?;
            }
            "fail for good" => {
                world.fail(&lease, FailureKind::BadAudio).await?;
            }
            "release" => {
                world.store.release(&lease.token).await?;
            }
            "cancel" => {
                let ticket = tickets.iter().find(|ticket| ticket.job_id == lease.token.job_id);
                let ticket =
                    ticket.ok_or_else(|| Violation::new("a lease on a job that nobody submitted"))?;
                world.store.cancel(&capped, &ticket.id).await?;
                ensure_eq!(
                    world.claim(&world.worker(), 10).await?,
                    vec![],
                    "claims before the worker noticed"
                );
                world.fail(&lease, FailureKind::Cancelled).await?;
            }
            _ => {
                for kept in &held {
                    world.store.renew(std::slice::from_ref(&kept.token), LEASE * 2).await?;
                }
                world.pass(LEASE).await?;
            }
        }
        let next = world.claim_busy(&world.worker(), 10).await?;
        ensure_eq!(next.len(), 1, "claims after one may {way}");
        held.extend(next);
    }
    world.audit().await
}

/// The caps of the newest submission stand, whether it made a job or not.
pub async fn a_new_cap_counts_at_once<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let capped = tenant("capped")?;
    let submit = |work: &str, caps| {
        let new = NewSubmission { caps, ..world.upload_of(&capped, work, 10) };
        let store = &world.store;
        async move { Verdict::Ok(store.submit(new).await?.submission) }
    };
    for number in 0..8 {
        submit(&format!("talk {number}"), running(0)).await?;
    }
    let worker = world.worker();
    ensure_eq!(world.claim(&worker, 10).await?, vec![], "claims under a cap of none");
    ensure!(submit("talk 7", running(2)).await?.deduplicated, "the same work attaches");
    let held = world.claim(&worker, 10).await?;
    ensure_eq!(held.len(), 2, "claims after the cap was raised to two");
    submit("talk 7", running(1)).await?;
    world.complete(&held[0]).await?;
    ensure_eq!(world.claim(&worker, 10).await?, vec![], "claims at the lowered cap");
    submit("talk 7", TenantCaps::default()).await?;
    ensure_eq!(world.claim(&worker, 10).await?.len(), 6, "claims without a cap");
    world.audit().await
}

/// A job that must run alone counts like any other, and holds up nobody while its tenant is at its cap.
pub async fn an_isolated_job_keeps_to_the_cap<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let capped = tenant("capped")?;
    let new = |work: &str| NewSubmission { caps: running(1), ..world.upload_of(&capped, work, 10) };
    world.isolate(new("isolated")).await?;
    world.store.submit(new("steady")).await?;
    let long = |worker: &WorkerId, idle| ClaimRequest { lease: LEASE * 100, ..world.request(worker, idle) };
    let reserved = world.store.claim(long(&world.worker(), false)).await?;
    ensure_eq!(reserved, None, "what the busy worker gets whose turn it is at the isolated job");
    let steady = world.store.claim(long(&world.worker(), false)).await?;
    let steady = steady.ok_or_else(|| Violation::new("the tenant's other job does not run"))?;
    ensure_eq!(world.claim(&world.worker(), 1).await?, vec![], "what an idle worker gets at the cap");
    for number in 0..4 {
        world.ticket(&format!("of another tenant {number}")).await?;
    }
    let busy = world.worker();
    for number in 0..4 {
        let one = world.store.claim(long(&busy, number == 0)).await?;
        ensure!(one.is_some(), "another's jobs go on though an isolated one waits that may not run");
    }
    world.complete(&steady).await?;
    let alone = world.claim_one().await?;
    ensure!(alone.alone && alone.tenant == capped, "the isolated job runs once its tenant is below its cap");
    world.audit().await
}

/// Beyond its cap a tenant's new work is refused; what needs no new job is answered, and other tenants feel nothing.
pub async fn a_tenants_full_queue_throttles_its_new_work_only<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let capped = tenant("capped")?;
    let new = |work: &str| NewSubmission {
        caps: TenantCaps { max_running: None, max_queued: Some(2) },
        ..world.upload_of(&capped, work, 10)
    };
    let first = new("first");
    world.store.submit(new("done")).await?;
    world.complete(&world.claim_one().await?).await?;
    world.store.submit(first.clone()).await?;
    let mut failure = JobFailure::new(FailureKind::EngineFailed, "later");
    failure.retry_after = Some(Duration::from_secs(60));
    world.store.fail(&world.claim_one().await?.token, failure).await?;
    world.store.submit(new("second")).await?;
    ensure_eq!(world.count(JobState::Delayed).await?, 1, "delayed jobs, which wait too");
    let refused = world.store.submit(new("third")).await.err();
    let told = refused.map(|error| (error.kind(), error.retry_after().is_some()));
    ensure_eq!(told, Some((ErrorKind::Throttled, true)), "the answer to one too many");
    ensure!(world.store.submit(new("second")).await?.submission.deduplicated, "attaching needs no room");
    ensure!(world.store.submit(new("done")).await?.submission.cached, "a cached answer needs no room");
    ensure!(world.store.submit(first).await?.replayed, "a repetition needs no room");
    ensure!(world.submit("of another tenant").await?.blob_adopted, "the others have room");
    world.claim(&world.worker(), 2).await?;
    ensure!(world.store.submit(new("third")).await?.blob_adopted, "there is room again");
    world.audit().await
}

/// The same recording with the same wishes is other work for another tenant, also when it is done.
pub async fn a_tenant_is_never_answered_from_anothers_work<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (a, b) = (tenant("a")?, tenant("b")?);
    let of = |whose: &TenantId, body: &str| {
        let new = world.upload_of(whose, "talk", 10);
        let model = ModelInfo {
            name: "tiny.en".to_owned(),
            engine: "whisper".to_owned(),
            multilingual: false,
            translates: false,
            diarizes: false,
            revision: "r".to_owned(),
        };
        let dedupe_key = DedupeKey::new(whose, "talk", &new.options, &model);
        let idempotency = Some(Idempotency { key: "order 66".to_owned(), body_digest: body.to_owned() });
        NewSubmission { dedupe_key, idempotency, ..new }
    };
    let first = world.store.submit(of(&a, "body of a")).await?.submission;
    let other = world.store.submit(of(&b, "body of b")).await?;
    ensure!(other.blob_adopted && !other.submission.deduplicated, "another tenant's upload is its own job");
    ensure!(other.submission.job_id != first.job_id, "and not the job of the first");
    let done = world.claim_one().await?;
    world.complete(&done).await?;
    let (whose, waits) = if done.tenant == a { (&a, &other.submission) } else { (&b, &first) };
    let cached = NewSubmission { idempotency: None, ..of(whose, "") };
    ensure!(world.store.submit(cached).await?.submission.cached, "its own tenant is answered");
    let attached = NewSubmission { idempotency: None, ..of(&waits.tenant, "") };
    let attached = world.store.submit(attached).await?.submission;
    ensure!(!attached.cached && attached.deduplicated, "the other attaches to its own job");
    for (whose, body, id) in [(&a, "body of a", &first.id), (&b, "body of b", &other.submission.id)] {
        let found = world.store.find_idempotent(whose, "order 66").await?;
        let found = found.map(|(submission, digest)| (submission.id, digest));
        ensure_eq!(found, Some((id.clone(), body.to_owned())), "what {whose}'s key stands for");
        let all = ListQuery { limit: 10, ..ListQuery::default() };
        let listed = world.store.list(whose, all).await?.submissions;
        ensure!(listed.iter().all(|one| one.tenant == *whose) && listed.len() == 2, "{whose} lists its own");
    }
    ensure_eq!(world.store.get(&b, &first.id).await?, None, "a's submission in b's eyes");
    let taken = NewSubmission { id: first.id, ..of(&b, "body of b") };
    let refused = world.store.submit(taken).await.map_err(|error| error.kind()).err();
    ensure_eq!(refused, Some(ErrorKind::Conflict), "b submits under a's ticket");
    world.audit().await
}
