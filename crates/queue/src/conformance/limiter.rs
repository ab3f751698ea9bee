//! What [`Limiter`] promises: named checks, and a plain model that remembers every request. [`replay`] runs requests on a
//! store and on the model and compares after each; `tests/model/limits.rs` draws them.

use std::time::Duration;

use futures::future::try_join_all;
use verbatim_core::ids::TenantId;
use verbatim_core::ports::Limiter;
use verbatim_core::ports::limiter::{Admission, LimitScope, LimitUse, ProjectLimit, RequestLimits};

use super::virtual_world::tenant;
use super::{Harness, MOMENT, Verdict, Violation, World, ensure, ensure_eq};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// What the service has by default: a bucket of 300, 5 more each second, 50 in one second, 5 seconds of rest.
const PROJECT: ProjectLimit =
    ProjectLimit { capacity: 300, refill_per_minute: 300, burst: 50, cooldown: Duration::from_secs(5) };

fn of_tenant(limit: u64) -> RequestLimits {
    RequestLimits { tenant_per_minute: Some(limit), project: None }
}

fn of_project(limit: ProjectLimit) -> RequestLimits {
    RequestLimits { tenant_per_minute: None, project: Some(limit) }
}

/// Asks under limits that must be there.
async fn ask<H: Harness>(world: &World<'_, H>, name: &str, limits: &RequestLimits) -> Verdict<Admission> {
    let admission = world.store.admit(&tenant(name)?, limits).await?;
    admission.ok_or_else(|| Violation::new("there is a limit, but none was found"))
}

/// Asks `times` times, and tells how many passed.
async fn passed<H: Harness>(
    world: &World<'_, H>,
    name: &str,
    limits: &RequestLimits,
    times: u64,
) -> Verdict<u64> {
    let mut passed = 0;
    for _ in 0..times {
        passed += u64::from(ask(world, name, limits).await?.allowed);
    }
    Ok(passed)
}

/// Fails unless the next request is refused until exactly then.
async fn expect_room_after<H: Harness>(
    world: &World<'_, H>,
    name: &str,
    limits: &RequestLimits,
    after: Duration,
) -> Verdict<Admission> {
    let refused = ask(world, name, limits).await?;
    ensure!(!refused.allowed && refused.remaining == 0, "nothing is left, but it says {refused:?}");
    ensure_eq!(refused.retry_after, after, "when there is room");
    world.clock.advance(after - MOMENT);
    let early = ask(world, name, limits).await?;
    ensure!(!early.allowed && early.retry_after == MOMENT, "a moment too early it says {early:?}");
    world.clock.advance(MOMENT);
    let admission = ask(world, name, limits).await?;
    ensure!(admission.allowed, "when there should be room it says {admission:?}");
    Ok(admission)
}

/// Without a limit nothing is counted.
pub async fn without_limits_everything_passes<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for _ in 0..10 {
        let admission = world.store.admit(&tenant("ann")?, &RequestLimits::default()).await?;
        ensure_eq!(admission, None, "a request without limits");
    }
    ensure_eq!(world.store.usage(&RequestLimits::default()).await?, LimitUse::default(), "what is used");
    world.audit().await
}

/// Wherever the minute begins, and the figures that clients see.
pub async fn a_tenant_has_its_limit_in_any_minute<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let limits = of_tenant(3);
    // One a second, so that each leaves at its own time.
    for left in [2, 1] {
        let admission = Admission {
            allowed: true,
            scope: LimitScope::Tenant,
            limit: 3,
            remaining: left,
            retry_after: Duration::ZERO,
            reset_after: MINUTE,
        };
        ensure_eq!(ask(&world, "ann", &limits).await?, admission, "a request with {left} left");
        world.clock.advance(SECOND);
    }
    let third = ask(&world, "ann", &limits).await?;
    ensure!(third.allowed && third.remaining == 0, "the third: {third:?}");
    ensure_eq!((third.retry_after, third.reset_after), (58 * SECOND, MINUTE), "what follows the third");
    world.clock.advance(8 * SECOND);
    let refused = ask(&world, "ann", &limits).await?;
    ensure_eq!((refused.scope, refused.reset_after), (LimitScope::Tenant, 52 * SECOND), "the fourth");
    expect_room_after(&world, "ann", &limits, 50 * SECOND).await?;
    expect_room_after(&world, "ann", &limits, SECOND).await?;
    expect_room_after(&world, "ann", &limits, SECOND).await?;
    // A whole minute later all of it is there; a smaller limit counts at once, and so does a greater one.
    world.clock.advance(MINUTE);
    ensure_eq!(passed(&world, "ann", &limits, 10).await?, 3, "requests of a new minute");
    let smaller = ask(&world, "ann", &of_tenant(1)).await?;
    ensure!(!smaller.allowed && smaller.retry_after == MINUTE, "under a smaller limit: {smaller:?}");
    ensure_eq!(passed(&world, "ann", &of_tenant(5), 10).await?, 2, "requests under a greater limit");
    world.audit().await
}

/// One tenant's requests are no other's.
pub async fn tenants_have_windows_of_their_own<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    ensure_eq!(passed(&world, "ann", &of_tenant(4), 10).await?, 4, "requests of ann");
    ensure_eq!(passed(&world, "bob", &of_tenant(4), 2).await?, 2, "requests of bob");
    world.clock.advance(MINUTE - MOMENT);
    ensure_eq!(passed(&world, "cat", &of_tenant(1), 1).await?, 1, "requests of cat");
    let tenants = [("ann", 4), ("bob", 2), ("cat", 1)];
    let named: Vec<(TenantId, u64)> =
        tenants.iter().map(|(name, used)| Ok((tenant(name)?, *used))).collect::<Verdict<_>>()?;
    ensure_eq!(world.store.usage(&of_tenant(4)).await?.tenants, named, "who asked how often");
    world.pass(MOMENT).await?;
    ensure_eq!(world.store.usage(&of_tenant(4)).await?.tenants, named[2..], "who asked in the last minute");
    ensure_eq!(passed(&world, "ann", &of_tenant(4), 10).await?, 4, "requests of ann's next minute");
    world.audit().await
}

/// However many nodes ask at once.
pub async fn limits_hold_when_many_ask_at_once<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let limits = RequestLimits { tenant_per_minute: Some(30), project: Some(PROJECT) };
    let names = ["ann", "bob", "cat"];
    let ask = |number: usize| ask(&world, names[number % 3], &limits);
    let admissions = try_join_all((0..300).map(ask)).await?;
    let allowed = |name: usize| admissions.iter().skip(name).step_by(3).filter(|one| one.allowed).count();
    let each = [allowed(0), allowed(1), allowed(2)];
    ensure_eq!(each.iter().sum::<usize>(), 50, "requests of one second, {each:?} of each");
    ensure!(each.iter().all(|of_one| *of_one <= 30), "a tenant was let through too often: {each:?}");
    world.audit().await
}

/// As the figures of the bucket say: bursts, what is saved up, what is refilled, and the rest once it is empty.
pub async fn the_project_has_a_bucket<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let limits = of_project(PROJECT);
    ensure_eq!(world.store.usage(&limits).await?.project_remaining, Some(300), "tokens before all requests");
    let first = ask(&world, "ann", &limits).await?;
    ensure_eq!(
        (first.scope, first.limit, first.remaining),
        (LimitScope::Project, 300, 49),
        "the first request"
    );
    ensure_eq!((first.retry_after, first.reset_after), (Duration::ZERO, SECOND), "and what follows it");
    // A burst is over for the rest of its second, however full the bucket is.
    ensure_eq!(passed(&world, "bob", &limits, 100).await?, 49, "the rest of a burst");
    ensure_eq!(world.store.usage(&limits).await?.project_remaining, Some(250), "tokens after a burst");
    let refused = ask(&world, "cat", &limits).await?;
    ensure!(!refused.allowed && refused.retry_after == SECOND, "after a burst: {refused:?}");
    ensure_eq!(refused.reset_after, 10 * SECOND, "when 50 tokens are there again");
    // 250 - 50 + 5 and so on: 45 fewer with each second.
    for left in [205, 160, 115, 70, 25] {
        world.clock.advance(SECOND);
        ensure_eq!(passed(&world, "ann", &limits, 60).await?, 50, "a burst that leaves {left}");
        ensure_eq!(world.store.usage(&limits).await?.project_remaining, Some(left), "tokens after it");
    }
    world.clock.advance(SECOND);
    ensure_eq!(passed(&world, "ann", &limits, 60).await?, 30, "the last tokens");
    // Nothing for five seconds, in which 25 are refilled; one is taken then, and 24 are left.
    expect_room_after(&world, "ann", &limits, 5 * SECOND).await?;
    ensure_eq!(world.store.usage(&limits).await?.project_remaining, Some(24), "tokens after the rest");
    ensure_eq!(passed(&world, "ann", &limits, 60).await?, 24, "requests after the rest");
    world.clock.advance(65 * SECOND);
    ensure_eq!(
        world.store.usage(&limits).await?.project_remaining,
        Some(300),
        "tokens after a minute of rest"
    );
    world.audit().await
}

/// A slow refill is exact to the millisecond, also in parts of a token.
pub async fn a_bucket_is_refilled_in_parts<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let limits =
        of_project(ProjectLimit { capacity: 2, refill_per_minute: 7, burst: 10, cooldown: Duration::ZERO });
    ensure_eq!(passed(&world, "ann", &limits, 5).await?, 2, "the bucket");
    // A token takes 8571 3/7 ms, and what was begun goes on.
    for millis in [8572, 8571, 8572] {
        expect_room_after(&world, "ann", &limits, Duration::from_millis(millis)).await?;
    }
    world.clock.advance(Duration::from_millis(4000));
    expect_room_after(&world, "ann", &limits, Duration::from_millis(4571)).await?;
    world.audit().await
}

/// What one limit refuses, the other does not count.
pub async fn what_is_refused_is_not_counted<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let narrow = RequestLimits { tenant_per_minute: Some(10), project: Some(PROJECT) };
    ensure_eq!(passed(&world, "ann", &narrow, 40).await?, 10, "requests within the tenant's limit");
    ensure_eq!(world.store.usage(&narrow).await?.project_remaining, Some(290), "tokens after them");
    let small = ProjectLimit { capacity: 300, refill_per_minute: 300, burst: 15, cooldown: Duration::ZERO };
    let tight = RequestLimits { tenant_per_minute: Some(10), project: Some(small) };
    ensure_eq!(passed(&world, "bob", &tight, 40).await?, 5, "requests within the burst");
    let refused = ask(&world, "bob", &tight).await?;
    ensure_eq!(
        (refused.scope, refused.limit, refused.retry_after),
        (LimitScope::Project, 300, SECOND),
        "the burst"
    );
    // Both refuse ann: the longer wait is told.
    let refused = ask(&world, "ann", &tight).await?;
    ensure_eq!((refused.scope, refused.limit, refused.retry_after), (LimitScope::Tenant, 10, MINUTE), "both");
    world.clock.advance(SECOND);
    let least = ask(&world, "bob", &tight).await?;
    ensure_eq!((least.scope, least.remaining), (LimitScope::Tenant, 4), "the limit with the least room");
    ensure_eq!(passed(&world, "bob", &tight, 40).await?, 4, "what bob had left");
    world.audit().await
}

/// What was asked in the clock's future counts from now.
pub async fn a_clock_that_is_put_back_locks_nobody_out<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let small = ProjectLimit { capacity: 2, refill_per_minute: 60, burst: 2, cooldown: 2 * SECOND };
    let both = RequestLimits { tenant_per_minute: Some(2), project: Some(small) };
    ensure_eq!(passed(&world, "ann", &both, 5).await?, 2, "requests before");
    world.clock.put_back(60 * MINUTE);
    ensure_eq!(world.store.usage(&both).await?.tenants, vec![(tenant("ann")?, 2)], "what is used");
    expect_room_after(&world, "bob", &both, 2 * SECOND).await?;
    expect_room_after(&world, "ann", &both, 58 * SECOND).await?;
    world.audit().await
}

/// The busiest hundred are named, in order.
pub async fn usage_names_the_busiest<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let limits = of_tenant(10);
    for number in 0..120_u64 {
        passed(&world, &format!("tenant-{number:03}"), &limits, 1 + number % 3).await?;
    }
    let used = world.store.usage(&limits).await?;
    ensure_eq!(used.project_remaining, None, "tokens without a bucket");
    let mut wanted: Vec<(u64, String)> =
        (0..120).map(|number| (1 + number % 3, format!("tenant-{number:03}"))).collect();
    wanted.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
    wanted.truncate(100);
    let named: Vec<(u64, String)> =
        used.tenants.into_iter().map(|(name, used)| (used, name.to_string())).collect();
    ensure_eq!(named, wanted, "the busiest");
    world.audit().await
}

/// What somebody asks, after how many milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Time that passes before.
    pub after: u64,
    /// Who asks, of a few.
    pub tenant: usize,
}

/// Remembers every request that passed, and works everything out of that.
#[derive(Debug, Default)]
struct Model {
    passed: Vec<(u64, usize)>,
}

impl Model {
    fn within(&self, now: u64, span: u64, whose: Option<usize>) -> u64 {
        let recent = |at: u64| at + span > now;
        self.passed.iter().filter(|(at, who)| recent(*at) && whose.is_none_or(|one| one == *who)).count()
            as u64
    }

    /// Parts of tokens, sixty thousand each, and the end of the rest, from the first request on.
    fn bucket(&self, now: u64, limit: &ProjectLimit) -> (u64, u64) {
        let full = limit.capacity * 60_000;
        let (mut parts, mut last, mut rests_until) = (full, 0, 0);
        for (at, _) in &self.passed {
            parts = full.min(parts + (at - last) * limit.refill_per_minute) - 60_000;
            last = *at;
            if parts < 60_000 {
                rests_until = at + limit.cooldown.as_millis() as u64;
            }
        }
        (full.min(parts + (now - last) * limit.refill_per_minute), rests_until)
    }

    fn allows(&self, now: u64, tenant: usize, limits: &RequestLimits) -> bool {
        let own = limits.tenant_per_minute.is_none_or(|limit| self.within(now, 60_000, Some(tenant)) < limit);
        own && limits.project.as_ref().is_none_or(|limit| {
            let (parts, rests_until) = self.bucket(now, limit);
            parts >= 60_000 && now >= rests_until && self.within(now, 1_000, None) < limit.burst
        })
    }

    /// Requests of that tenant, or of all, in the fullest of all windows.
    fn fullest(&self, span: u64, whose: Option<usize>) -> u64 {
        let until =
            |end: u64| Self { passed: self.passed.iter().filter(|(at, _)| *at <= end).copied().collect() };
        self.passed.iter().map(|(at, _)| until(*at).within(*at, span, whose)).max().unwrap_or(0)
    }
}

/// Requests at these times pass exactly when the model says so; what is told about the next room is true.
///
/// # Errors
/// What differs.
pub async fn replay<H: Harness>(harness: &H, limits: RequestLimits, requests: &[Request]) -> Verdict {
    let world = World::open(harness).await?;
    let start = world.now();
    let mut model = Model::default();
    let now = || world.now().since(start).as_millis() as u64;
    for (number, request) in requests.iter().enumerate() {
        let (who, name) = (request.tenant, format!("tenant-{}", request.tenant));
        world.clock.advance(Duration::from_millis(request.after));
        let mut admission = ask(&world, &name, &limits).await?;
        let allowed = model.allows(now(), who, &limits);
        ensure_eq!(admission.allowed, allowed, "whether request {number} at {} passes, {admission:?}", now());
        if !allowed {
            ensure!(
                admission.retry_after >= MOMENT,
                "refused request {number} may come again: {admission:?}"
            );
            world.clock.advance(admission.retry_after - MOMENT);
            let early = ask(&world, &name, &limits).await?;
            ensure!(!early.allowed, "request {number} passed before its time: {admission:?}, then {early:?}");
            world.clock.advance(MOMENT);
            admission = ask(&world, &name, &limits).await?;
            ensure!(admission.allowed, "request {number} was refused at the time it was told: {admission:?}");
            ensure!(model.allows(now(), who, &limits), "request {number} passed against the model");
        }
        model.passed.push((now(), who));
        let next_passes = model.allows(now(), who, &limits);
        let says_so = (admission.retry_after.is_zero(), admission.remaining > 0);
        ensure_eq!(says_so, (next_passes, next_passes), "whether there is room after request {number}");
    }
    if let Some(limit) = limits.tenant_per_minute {
        for who in requests.iter().map(|request| request.tenant) {
            let most = model.fullest(60_000, Some(who));
            ensure!(most <= limit, "tenant {who} made {most} requests within a minute, {limit} are allowed");
        }
    }
    if let Some(limit) = limits.project {
        let most = model.fullest(1_000, None);
        ensure!(most <= limit.burst, "{most} requests within a second, {} are allowed", limit.burst);
    }
    Ok(())
}
