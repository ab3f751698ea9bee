//! Request limits as arithmetic over the time: what a store of one process keeps, and what the scripts of the Redis store do
//! too (`redis/lua/limits.lua`).
//!
//! - A tenant's limit is a sliding window: the exact time of each request that was let through is kept until it is 60
//!   seconds old, so that no 60 seconds, wherever they begin, hold more of them than the limit. (A counter per minute would
//!   let twice as many pass around the turn of one.) At most the limit is kept, 8 bytes each.
//! - The project's limit is a token bucket that is refilled by the millisecond. Its burst is a sliding window of one second.
//!   The request that takes the last whole token begins the cooldown, in which the bucket is refilled but nothing passes.
//! - A request must pass both. What is refused leaves no trace.
//! - A clock that is put back does not lock anybody out: what was counted in its future counts from now.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use verbatim_core::ids::TenantId;
use verbatim_core::ports::limiter::{Admission, LimitScope, LimitUse, ProjectLimit, RequestLimits};
use verbatim_core::time::Timestamp;

/// Tenants that usage names.
pub(crate) const BUSIEST: usize = 100;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60_000;
/// What a wait is told as that does not end.
const NEVER: u64 = 86_400_000;
/// Tokens are counted in parts, so that what is refilled in a millisecond is whole: a limit of one a minute refills one part.
const TOKEN: u64 = 60_000;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago, in milliseconds.
fn since(now: Timestamp, at: Timestamp) -> u64 {
    millis(now.since(at))
}

/// The requests of the last so many milliseconds, oldest first.
#[derive(Debug, Default)]
struct Window(VecDeque<Timestamp>);

impl Window {
    /// Forgets what is `span` ago.
    fn pass(&mut self, now: Timestamp, span: u64) {
        for early in self.0.iter_mut().rev().take_while(|at| **at > now) {
            *early = now;
        }
        while self.0.front().is_some_and(|at| since(now, *at) >= span) {
            self.0.pop_front();
        }
    }

    fn used(&self) -> u64 {
        self.0.len() as u64
    }

    /// When one more fits.
    fn room_after(&self, now: Timestamp, limit: u64, span: u64) -> u64 {
        if self.used() < limit {
            return 0;
        }
        let leaves = usize::try_from(self.used() - limit).ok().and_then(|place| self.0.get(place));
        leaves.map_or(span, |at| span.saturating_sub(since(now, *at)))
    }

    /// When all of it is there.
    fn all_after(&self, now: Timestamp, span: u64) -> u64 {
        self.0.back().map_or(0, |at| span.saturating_sub(since(now, *at)))
    }
}

/// The project's tokens.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    parts: u64,
    /// When there were so many.
    at: Timestamp,
    /// For how long nothing passes, from then on.
    cooling: u64,
}

impl Bucket {
    fn full(now: Timestamp, limit: &ProjectLimit) -> Self {
        Self { parts: limit.capacity.saturating_mul(TOKEN), at: now, cooling: 0 }
    }

    /// The same, as it is now.
    fn pass(self, now: Timestamp, limit: &ProjectLimit) -> Self {
        let gone = since(now, self.at);
        let parts = self.parts.saturating_add(gone.saturating_mul(limit.refill_per_minute));
        Self {
            parts: parts.min(limit.capacity.saturating_mul(TOKEN)),
            at: now,
            cooling: self.cooling.saturating_sub(gone).min(millis(limit.cooldown)),
        }
    }

    /// When it holds so many parts.
    fn filled_after(&self, wanted: u64, limit: &ProjectLimit) -> u64 {
        let missing = wanted.saturating_sub(self.parts);
        match limit.refill_per_minute {
            _ if missing == 0 => 0,
            0 => NEVER,
            refill => missing.div_ceil(refill).min(NEVER),
        }
    }
}

/// One of the two limits and where it stands.
struct Standing {
    scope: LimitScope,
    limit: u64,
    remaining: u64,
    retry: u64,
    reset: u64,
}

/// All requests that still count.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    tenants: HashMap<TenantId, Window>,
    /// When tenants that ask no more are forgotten next.
    sweep_at: Option<Timestamp>,
    burst: Window,
    bucket: Option<Bucket>,
}

impl Requests {
    /// Does what [`verbatim_core::ports::Limiter::admit`] says.
    pub(crate) fn admit(
        &mut self,
        now: Timestamp,
        tenant: &TenantId,
        limits: &RequestLimits,
    ) -> Option<Admission> {
        self.pass(now, tenant, limits);
        let before: Vec<Standing> = self.standings(now, tenant, limits);
        // The first of the longest: the tenant's own where both say the same.
        let refuses = before.iter().rev().max_by_key(|standing| standing.retry)?;
        if refuses.retry > 0 {
            return Some(admission(false, refuses, refuses.retry));
        }
        self.count(now, tenant, limits);
        let after = self.standings(now, tenant, limits);
        let retry = after.iter().map(|standing| standing.retry).max().unwrap_or(0);
        after.iter().min_by_key(|standing| standing.remaining).map(|least| admission(true, least, retry))
    }

    /// Does what [`verbatim_core::ports::Limiter::usage`] says.
    pub(crate) fn usage(&mut self, now: Timestamp, limits: &RequestLimits) -> LimitUse {
        self.sweep(now);
        let mut tenants: Vec<_> =
            self.tenants.iter().map(|(tenant, window)| (tenant.clone(), window.used())).collect();
        tenants.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        tenants.truncate(BUSIEST);
        let bucket = |limit: &ProjectLimit| self.bucket.unwrap_or(Bucket::full(now, limit)).pass(now, limit);
        let project_remaining = limits.project.map(|limit| bucket(&limit).parts / TOKEN);
        LimitUse { tenants, project_remaining }
    }

    /// Brings what this request is measured by up to now.
    fn pass(&mut self, now: Timestamp, tenant: &TenantId, limits: &RequestLimits) {
        let soon = now.plus(Duration::from_millis(MINUTE));
        if self.sweep_at.is_none_or(|at| at <= now || at > soon) {
            self.sweep(now);
            self.sweep_at = Some(soon);
        }
        if let Some(window) = self.tenants.get_mut(tenant) {
            window.pass(now, MINUTE);
        }
        if let Some(limit) = &limits.project {
            self.burst.pass(now, SECOND);
            self.bucket = Some(self.bucket.unwrap_or(Bucket::full(now, limit)).pass(now, limit));
        }
    }

    /// Forgets tenants that have not asked for a minute.
    fn sweep(&mut self, now: Timestamp) {
        self.tenants.retain(|_, window| {
            window.pass(now, MINUTE);
            !window.0.is_empty()
        });
    }

    /// The tenant's limit and the project's, as far as there are any.
    fn standings(&self, now: Timestamp, tenant: &TenantId, limits: &RequestLimits) -> Vec<Standing> {
        let nothing = Window::default();
        let own = limits.tenant_per_minute.map(|limit| {
            let window = self.tenants.get(tenant).unwrap_or(&nothing);
            Standing {
                scope: LimitScope::Tenant,
                limit,
                remaining: limit.saturating_sub(window.used()),
                retry: window.room_after(now, limit, MINUTE),
                reset: window.all_after(now, MINUTE),
            }
        });
        let project = limits.project.as_ref().zip(self.bucket.as_ref()).map(|(limit, bucket)| {
            let room = limit.burst.saturating_sub(self.burst.used());
            let waits = [
                bucket.cooling,
                bucket.filled_after(TOKEN, limit),
                self.burst.room_after(now, limit.burst, SECOND),
            ];
            let resets = [
                bucket.cooling,
                bucket.filled_after(limit.capacity.saturating_mul(TOKEN), limit),
                self.burst.all_after(now, SECOND),
            ];
            Standing {
                scope: LimitScope::Project,
                limit: limit.capacity,
                remaining: if bucket.cooling > 0 { 0 } else { room.min(bucket.parts / TOKEN) },
                retry: waits.into_iter().max().unwrap_or(0),
                reset: resets.into_iter().max().unwrap_or(0),
            }
        });
        own.into_iter().chain(project).collect()
    }

    /// Counts a request that may pass.
    fn count(&mut self, now: Timestamp, tenant: &TenantId, limits: &RequestLimits) {
        if limits.tenant_per_minute.is_some() {
            self.tenants.entry(tenant.clone()).or_default().0.push_back(now);
        }
        if let Some((limit, bucket)) = limits.project.as_ref().zip(self.bucket.as_mut()) {
            self.burst.0.push_back(now);
            bucket.parts = bucket.parts.saturating_sub(TOKEN);
            if bucket.parts < TOKEN {
                bucket.cooling = millis(limit.cooldown);
            }
        }
    }
}

fn admission(allowed: bool, standing: &Standing, retry: u64) -> Admission {
    Admission {
        allowed,
        scope: standing.scope,
        limit: standing.limit,
        remaining: if allowed { standing.remaining } else { 0 },
        retry_after: Duration::from_millis(retry),
        reset_after: Duration::from_millis(standing.reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: usize) -> TenantId {
        TenantId::parse(&format!("tenant-{name}")).expect("a name")
    }

    #[test]
    fn tenants_that_ask_no_more_take_no_room() {
        let limits = RequestLimits { tenant_per_minute: Some(5), project: None };
        let mut requests = Requests::default();
        for number in 0..10_000 {
            let now = Timestamp::from_millis(1_000_000 + number * 100);
            requests.admit(now, &tenant(number as usize), &limits);
        }
        // Ten ask in a second; those of two minutes are there at most.
        assert!(requests.tenants.len() <= 1200, "{} tenants are kept", requests.tenants.len());
    }
}
