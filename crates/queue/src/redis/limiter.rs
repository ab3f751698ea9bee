//! Request limits of all nodes together. `lua/limits.lua` counts as [`crate::limiter`] does, on the server's time.

use std::time::Duration;

use async_trait::async_trait;
use redis::ScriptInvocation;
use verbatim_core::PortError;
use verbatim_core::ids::TenantId;
use verbatim_core::ports::Limiter;
use verbatim_core::ports::limiter::{Admission, LimitScope, LimitUse, ProjectLimit, RequestLimits};

use super::error::corrupt;
use super::{RedisStore, millis, scripts};
use crate::limiter::BUSIEST;

/// The most that a limit may be: scripts count parts of tokens exactly up to there.
const MOST: u64 = 100_000_000_000;
/// Tenants that are counted for the busiest of them, those who asked last.
const LOOK_AT: usize = 1000;

/// Allowed, whose limit, the limit, what is left, milliseconds to room and to all of it.
type Answer = (u8, u8, u64, u64, u64, u64);

#[async_trait]
impl Limiter for RedisStore {
    async fn admit(&self, tenant: &TenantId, limits: &RequestLimits) -> Result<Option<Admission>, PortError> {
        if *limits == RequestLimits::default() {
            return Ok(None);
        }
        let mut call = self.0.wire.call(&scripts::ADMIT);
        call.arg(tenant.as_str()).arg(text(limits.tenant_per_minute));
        project(&mut call, limits.project);
        let (allowed, whose, limit, remaining, retry, reset): Answer = self.0.wire.link.run(&call).await?;
        let scope = match whose {
            1 => LimitScope::Tenant,
            2 => LimitScope::Project,
            other => return Err(corrupt(format!("limit `{other}`"))),
        };
        Ok(Some(Admission {
            allowed: allowed == 1,
            scope,
            limit,
            remaining,
            retry_after: Duration::from_millis(retry),
            reset_after: Duration::from_millis(reset),
        }))
    }

    async fn usage(&self, limits: &RequestLimits) -> Result<LimitUse, PortError> {
        let mut call = self.0.wire.call(&scripts::LIMIT_USE);
        call.arg(LOOK_AT).arg(BUSIEST);
        project(&mut call, limits.project);
        let (left, busiest): (i64, Vec<(String, u64)>) = self.0.wire.link.run(&call).await?;
        let tenants = busiest
            .into_iter()
            .map(|(name, used)| Ok((TenantId::parse(&name).map_err(corrupt)?, used)))
            .collect::<Result<_, PortError>>()?;
        Ok(LimitUse { tenants, project_remaining: u64::try_from(left).ok() })
    }
}

fn text(limit: Option<u64>) -> String {
    limit.map(|limit| limit.min(MOST).to_string()).unwrap_or_default()
}

/// Capacity, refill, burst, cooldown; empty without such a limit.
fn project(call: &mut ScriptInvocation<'_>, limit: Option<ProjectLimit>) {
    call.arg(text(limit.map(|limit| limit.capacity)))
        .arg(text(limit.map(|limit| limit.refill_per_minute)))
        .arg(text(limit.map(|limit| limit.burst)))
        .arg(text(limit.map(|limit| millis(limit.cooldown))));
}
