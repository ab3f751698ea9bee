//! For operators.

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::JobId;
use verbatim_core::ports::JobAdmin;
use verbatim_core::ports::jobs::{DeadLetterPage, DeadLetterQuery, MAX_JOBS_PER_CALL};

use super::error::corrupt;
use super::record::{self, DeadLetterRow};
use super::{RedisStore, millis, scripts};
use crate::newer::readable;
use crate::not_redriven;

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
}
