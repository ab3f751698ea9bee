//! For those who submit and watch.

use async_trait::async_trait;
use verbatim_admission::Refused;
use verbatim_core::class::JobClass;
use verbatim_core::event::EventSeq;
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::{NewSubmission, Submission, SubmissionStatus, SubmitOutcome};
use verbatim_core::ports::jobs::{DeleteOutcome, EventStream, ListQuery, Listing, MAX_JOBS_PER_CALL};
use verbatim_core::ports::{BlobKey, JobClient};
use verbatim_core::{ErrorKind, PortError, Refusal};

use super::error::corrupt;
use super::record::{self, Unmoving, View, tier_number};
use super::{RedisStore, events, json, millis, scripts};
use crate::newer::readable;
use crate::{BACKLOG_RETRY, job_exists, no_share, too_many_remembered, unshared};

/// Submissions that one call looks at for a page of those with some status.
const LOOK_AT: usize = 1024;
/// Looks that one request makes: who asks for a rare status goes on from where they end.
const MOST_LOOKS: usize = 4;

#[async_trait]
impl JobClient for RedisStore {
    async fn submit(&self, submission: NewSubmission) -> Result<SubmitOutcome, PortError> {
        let call = self.submission(&submission)?;
        let answer: redis::Value = self.0.wire.link.run(&call).await?;
        match read::<(String, u8, View)>(&answer) {
            Some((how, adopted, view)) => Ok(SubmitOutcome {
                submission: record::submission(view)?,
                blob_adopted: adopted == 1,
                replayed: how == "replayed",
            }),
            None => {
                let why = read::<(String,)>(&answer).map(|(why,)| why).unwrap_or_default();
                Err(refusal(&why, self.0.ids.fraction()))
            }
        }
    }

    async fn find_idempotent(
        &self,
        tenant: &TenantId,
        key: &str,
    ) -> Result<Option<(Submission, String)>, PortError> {
        let mut call = self.0.wire.call(&scripts::FIND_IDEMPOTENT);
        call.arg(tenant.as_str()).arg(key);
        let found: Option<(String, View)> = self.0.wire.link.run(&call).await?;
        found.map(|(digest, view)| Ok((record::submission(view)?, digest))).transpose()
    }

    async fn get(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        let mut call = self.0.wire.call(&scripts::GET);
        call.arg(tenant.as_str()).arg(id.ulid());
        let found: Option<View> = self.0.wire.link.run(&call).await?;
        found.map(record::submission).transpose()
    }

    async fn list(&self, tenant: &TenantId, query: ListQuery) -> Result<Listing, PortError> {
        let most = query.limit.min(MAX_JOBS_PER_CALL);
        let mut before = query.before.as_ref().map_or("", |id| id.ulid()).to_owned();
        let status = query.status.map_or("", SubmissionStatus::as_str);
        let mut page = Listing::default();
        for _ in 0..MOST_LOOKS {
            let mut call = self.0.wire.call(&scripts::LIST);
            let wanted = most - page.len();
            call.arg(tenant.as_str()).arg(&before).arg(status).arg(wanted).arg(LOOK_AT);
            let (next, found): (String, Vec<View>) = self.0.wire.link.run(&call).await?;
            // One that is left out makes room for another.
            let last = found.get(wanted.wrapping_sub(1)).and_then(|(sub, ..)| sub.text("id"));
            before = if next.is_empty() { last.unwrap_or_default().to_owned() } else { next };
            let found = found.into_iter().map(record::submission);
            page.submissions.extend(readable("a submission", found));
            if before.is_empty() || page.len() == most {
                return Ok(page);
            }
        }
        // A cursor is where a look ended, whether or not it found what was asked for.
        page.next = Some(record::submission_id(&before)?);
        Ok(page)
    }

    async fn delete(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<DeleteOutcome>, PortError> {
        let done = self.end(tenant, id, &self.0.ids.ulid()).await?;
        Ok(done.map(|(what, _)| match what.as_str() {
            "cancelled" => DeleteOutcome::Cancelled,
            _ => DeleteOutcome::Removed,
        }))
    }

    async fn cancel(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        let done = self.end(tenant, id, "").await?;
        let view = done.map(|(_, view)| view.ok_or_else(|| corrupt("a submission that was cancelled")));
        view.transpose()?.map(record::submission).transpose()
    }

    async fn is_served(&self, class: &JobClass) -> Result<bool, PortError> {
        let mut call = self.0.wire.call(&scripts::SERVED);
        call.arg(class.as_str());
        let served: u8 = self.0.wire.link.run(&call).await?;
        Ok(served == 1)
    }

    async fn result_lost(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        result: &BlobKey,
    ) -> Result<(), PortError> {
        let mut call = self.0.wire.call(&scripts::RESULT_LOST);
        call.arg(tenant.as_str()).arg(id.ulid()).arg(result.as_str());
        self.0.wire.link.run(&call).await
    }

    async fn events(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        after: Option<EventSeq>,
    ) -> Result<Option<EventStream>, PortError> {
        events::open(self, tenant, id, after).await
    }
}

impl RedisStore {
    fn submission(&self, new: &NewSubmission) -> Result<redis::ScriptInvocation<'static>, PortError> {
        let usual = BlobKey::for_upload(&new.job_id);
        let unmoving = Unmoving {
            options: new.options.clone(),
            audio: new.audio.clone(),
            blob: (new.blob != usual).then(|| new.blob.clone()),
            trace: new.trace,
        };
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let (key, digest) = new
            .idempotency
            .as_ref()
            .map_or(("", ""), |idempotency| (idempotency.key.as_str(), idempotency.body_digest.as_str()));
        let mut call = self.0.wire.call(&scripts::SUBMIT);
        call.arg(new.id.ulid())
            .arg(new.job_id.ulid())
            .arg(new.tenant.as_str())
            .arg(new.dedupe_key.as_str())
            .arg(json(&unmoving)?)
            .arg(tier_number(new.priority))
            .arg(new.deadline.map(|after| millis(after).to_string()).unwrap_or_default())
            .arg(new.estimated_secs)
            .arg(number(new.caps.max_running))
            .arg(number(new.caps.max_queued))
            .arg(json(&new.metadata)?)
            .arg(key)
            .arg(digest)
            .arg(new.blob.as_str())
            .arg(new.options.engine.as_str())
            .arg(millis(self.0.policy.dedupe_ttl))
            .arg(millis(self.0.policy.result_retention))
            .arg(millis(self.0.policy.idempotency_ttl))
            .arg(millis(self.0.policy.max_age))
            .arg(number(self.0.policy.max_waiting))
            .arg(JobClass::of(&new.options).as_str())
            .arg(number(self.0.policy.max_remembered))
            .arg(number(self.0.policy.max_remembered_of_all))
            .arg(number(self.0.policy.max_remembered_of_all.map(unshared)));
        Ok(call)
    }

    async fn end(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        remover: &str,
    ) -> Result<Option<(String, Option<View>)>, PortError> {
        let mut call = self.0.wire.call(&scripts::CANCEL);
        call.arg(tenant.as_str()).arg(id.ulid()).arg(millis(self.0.policy.result_retention)).arg(remover);
        self.0.wire.link.run(&call).await
    }
}

fn read<T: redis::FromRedisValue>(answer: &redis::Value) -> Option<T> {
    redis::from_redis_value(answer.clone()).ok()
}

/// Why a submission was not taken. Waits that are spread are so by a `fraction` between 0 and 1.
fn refusal(why: &str, fraction: f64) -> PortError {
    let throttled = |message| PortError::new(ErrorKind::Throttled, message).with_retry_after(BACKLOG_RETRY);
    match why {
        "made" => job_exists(),
        "taken" => PortError::new(ErrorKind::Conflict, "this job id is taken"),
        "conflict" => PortError::new(
            ErrorKind::Conflict,
            "this Idempotency-Key was used with another request; use a new key for a new request",
        ),
        "queue_full" => {
            throttled("too many jobs are waiting already; try again later").because(Refusal::QueueFull)
        }
        "tenant_full" => throttled("as many of your jobs are waiting as your key allows; try again later")
            .because(Refusal::QueueFull),
        "too_many_remembered" => too_many_remembered(),
        "store_limit" => no_share(Refused::Full, fraction),
        "store_share" => no_share(Refused::Share, fraction),
        other => super::error::corrupt(format!("answer `{other}`")),
    }
}
