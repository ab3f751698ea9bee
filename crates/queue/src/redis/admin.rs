//! For operators.

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::caps::{AtCap, TenantUse};
use verbatim_core::ids::{JobId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::JobAdmin;
use verbatim_core::ports::jobs::{DeadLetterPage, DeadLetterQuery, MAX_JOBS_PER_CALL};

use super::error::corrupt;
use super::record::{self, DeadLetterRow};
use super::{RedisStore, millis, scripts};
use crate::newer::readable;
use crate::{check_tenants, not_redriven};

/// Dead letters that one call looks at for a page of one tenant's.
const LOOK_AT: usize = 1024;
/// Looks that one request makes: who asks for a tenant that has few goes on from where they end.
const MOST_LOOKS: usize = 4;

#[async_trait]
impl JobAdmin for RedisStore {
    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<DeadLetterPage, PortError> {
        let most = query.limit.min(MAX_JOBS_PER_CALL);
        let tenant = query.tenant.as_ref().map_or("", |tenant| tenant.as_str());
        let mut before = query.before.as_ref().map_or("", |id| id.ulid()).to_owned();
        let mut page = DeadLetterPage::default();
        for _ in 0..MOST_LOOKS {
            let mut call = self.0.wire.call(&scripts::DEAD_LETTERS);
            let wanted = most - page.letters.len();
            call.arg(tenant).arg(&before).arg(wanted).arg(LOOK_AT);
            let (next, found): (String, Vec<DeadLetterRow>) = self.0.wire.link.run(&call).await?;
            // One that is left out makes room for another.
            let last = found.get(wanted.wrapping_sub(1)).map(|(id, ..)| id.clone());
            before = if next.is_empty() { last.unwrap_or_default() } else { next };
            let found = found.into_iter().map(record::dead_letter);
            page.letters.extend(readable("a dead letter", found));
            if before.is_empty() || page.letters.len() == most {
                return Ok(page);
            }
        }
        page.next = Some(record::job_id(&before)?);
        Ok(page)
    }

    async fn redrive(&self, id: &JobId) -> Result<bool, PortError> {
        let mut call = self.0.wire.call(&scripts::REDRIVE);
        call.arg(id.ulid())
            .arg(millis(self.0.policy.dedupe_ttl))
            .arg(millis(self.0.policy.max_age))
            .arg(self.0.ids.ulid());
        let done: String = self.0.wire.link.run(&call).await?;
        match done.as_str() {
            "queued" => Ok(true),
            "none" => Ok(false),
            "live" => Err(not_redriven("the same work is under way in another job")),
            "done" => Err(not_redriven("the same work has been completed by another job")),
            "unwanted" => Err(not_redriven("nobody waits for it any more")),
            other => Err(corrupt(format!("answer `{other}`"))),
        }
    }

    async fn discard_dead_letter(&self, id: &JobId) -> Result<bool, PortError> {
        let mut call = self.0.wire.call(&scripts::DISCARD);
        call.arg(id.ulid()).arg(self.0.ids.ulid());
        let done: u8 = self.0.wire.link.run(&call).await?;
        Ok(done == 1)
    }

    async fn set_caps(&self, caps: &[(TenantId, TenantCaps)]) -> Result<AtCap, PortError> {
        check_tenants(caps.len())?;
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let mut call = self.0.wire.call(&scripts::SET_CAPS);
        for (tenant, TenantCaps { max_running, max_queued }) in caps {
            call.arg(tenant.as_str()).arg(number(*max_running)).arg(number(*max_queued));
        }
        let (running, queued) = self.0.wire.link.run(&call).await?;
        Ok(AtCap { running, queued })
    }

    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError> {
        check_tenants(tenants.len())?;
        let mut call = self.0.wire.call(&scripts::TENANTS);
        for tenant in tenants {
            call.arg(tenant.as_str());
        }
        let found: Vec<(u64, u64, u64, i64, i64)> = self.0.wire.link.run(&call).await?;
        let cap = |most: i64| u64::try_from(most).ok();
        let all = tenants.iter().zip(found).map(
            |(tenant, (running, waiting, submissions, most_running, most_queued))| {
                let caps = TenantCaps { max_running: cap(most_running), max_queued: cap(most_queued) };
                TenantUse { tenant: tenant.clone(), running, waiting, submissions, caps }
            },
        );
        Ok(all.collect())
    }
}
