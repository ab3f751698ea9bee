//! Caps that are set for a tenant hold whatever its submissions bring.

use verbatim_core::ErrorKind;
use verbatim_core::caps::{AtCap, MAX_TENANTS_PER_CALL, TenantUse};
use verbatim_core::ids::TenantId;
use verbatim_core::job::{NewSubmission, TenantCaps};
use verbatim_core::ports::{JobAdmin, JobClient};

use super::virtual_world::tenant;
use super::{Harness, Verdict, World, ensure, ensure_eq};

fn running(most: u64) -> TenantCaps {
    TenantCaps { max_running: Some(most), max_queued: None }
}

fn queued(most: u64) -> TenantCaps {
    TenantCaps { max_running: None, max_queued: Some(most) }
}

/// Work of the tenant by a key with these caps.
async fn submit<H: Harness>(
    world: &World<'_, H>,
    whose: &TenantId,
    work: &str,
    caps: TenantCaps,
) -> Verdict<Option<ErrorKind>> {
    let new = NewSubmission { caps, ..world.upload_of(whose, work, 10) };
    Ok(world.store.submit(new).await.map_err(|error| error.kind()).err())
}

/// What is queued already does not begin beyond the cap, without any new submission; another key does not undo it, nor does
/// work that attaches; a stricter key counts until the next submission; what was set is lifted as it was set.
pub async fn a_set_cap_holds_whatever_submissions_bring<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let capped = tenant("capped")?;
    for number in 0..9 {
        submit(&world, &capped, &format!("talk {number}"), TenantCaps::default()).await?;
    }
    ensure_eq!(
        world.store.set_caps(&[(capped.clone(), running(2))]).await?,
        AtCap::default(),
        "tenants at their caps before any job runs"
    );
    let worker = world.worker();
    let held = world.claim(&worker, 10).await?;
    ensure_eq!(held.len(), 2, "claims of what was queued before the cap was set");
    for work in ["another", "talk 8"] {
        submit(&world, &capped, work, TenantCaps::default()).await?;
        ensure_eq!(world.claim(&worker, 10).await?, vec![], "claims after a key without a cap sent `{work}`");
    }
    submit(&world, &capped, "laxer", running(5)).await?;
    ensure_eq!(world.claim(&worker, 10).await?, vec![], "claims after a key with a laxer cap");
    let at_cap = world.store.set_caps(&[(capped.clone(), running(2))]).await?;
    ensure_eq!(at_cap, AtCap { running: 1, queued: 0 }, "tenants at their caps");

    submit(&world, &capped, "stricter", running(1)).await?;
    world.complete(&held[0]).await?;
    ensure_eq!(world.claim(&worker, 10).await?, vec![], "claims under the stricter cap of a key");
    submit(&world, &capped, "stricter", TenantCaps::default()).await?;
    ensure_eq!(world.claim(&worker, 10).await?.len(), 1, "claims once another key was used");

    world.store.set_caps(&[(capped.clone(), TenantCaps::default())]).await?;
    ensure_eq!(world.claim(&worker, 20).await?.len(), 9, "claims once the cap was lifted");
    world.audit().await
}

/// A cap of none at all stops a tenant, and only it. Lifting it takes a stricter key's cap along, which may be revoked.
pub async fn lifting_a_set_cap_lets_everything_begin<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (stopped, other) = (tenant("stopped")?, tenant("other")?);
    world.store.set_caps(&[(stopped.clone(), running(0))]).await?;
    for number in 0..4 {
        submit(&world, &stopped, &format!("talk {number}"), running(1)).await?;
        submit(&world, &other, &format!("talk {number}"), TenantCaps::default()).await?;
    }
    let worker = world.worker();
    let held = world.claim(&worker, 10).await?;
    ensure!(held.len() == 4 && held.iter().all(|lease| lease.tenant == other), "only the other is served");
    world.store.set_caps(&[(stopped, TenantCaps::default())]).await?;
    ensure_eq!(world.claim(&worker, 10).await?.len(), 4, "claims once it may begin again");
    world.audit().await
}

/// New work beyond it is refused, whichever key brings it. Setting the same again, and for tenants nobody heard of, is harmless.
pub async fn a_set_cap_of_waiting_jobs_holds_for_every_key<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (capped, absent) = (tenant("capped")?, tenant("absent")?);
    let both = [(capped.clone(), queued(2)), (absent.clone(), running(3))];
    for _ in 0..2 {
        ensure_eq!(world.store.set_caps(&both).await?, AtCap::default(), "tenants at their caps");
    }
    for (number, expected) in [None, None, Some(ErrorKind::Throttled)].into_iter().enumerate() {
        let answer = submit(&world, &capped, &format!("talk {number}"), queued(9)).await?;
        ensure_eq!(answer, expected, "the answer to submission {number}");
    }
    ensure_eq!(world.store.set_caps(&both).await?, AtCap { running: 0, queued: 1 }, "tenants at their caps");
    submit(&world, &absent, "talk", TenantCaps::default()).await?;
    let worker = world.worker();
    while world.claim(&worker, 1).await?.pop().is_some_and(|lease| lease.tenant != capped) {}
    let told = world.store.tenants(&[absent.clone(), capped.clone(), tenant("nobody")?]).await?;
    let takes_up = |tenant: &TenantId, running, waiting, submissions, caps| TenantUse {
        tenant: tenant.clone(),
        running,
        waiting,
        submissions,
        caps,
    };
    let caps = told.first().map_or_else(TenantCaps::default, |first| first.caps);
    ensure_eq!(caps, running(3), "caps of a tenant that were set before it did anything");
    ensure_eq!(told[1], takes_up(&capped, 1, 1, 2, queued(2)), "what the capped tenant takes up");
    ensure_eq!(
        told[2],
        takes_up(&tenant("nobody")?, 0, 0, 0, TenantCaps::default()),
        "what a tenant takes up that nobody heard of"
    );
    ensure!(submit(&world, &capped, "talk 3", queued(9)).await?.is_none(), "there is room again");
    let many = vec![(absent, running(1)); MAX_TENANTS_PER_CALL + 1];
    let refused = world.store.set_caps(&many).await.map_err(|error| error.kind()).err();
    ensure_eq!(refused, Some(ErrorKind::Invalid), "too many tenants in one call");
    world.audit().await
}
