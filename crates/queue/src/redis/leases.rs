//! For those who work.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::ScriptInvocation;
use verbatim_core::class::Abilities;
use verbatim_core::event::{SEGMENT_STRIDE, Stage};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{Completion, Lease, LeaseToken, Report};
use verbatim_core::policy::RESERVED_ONE_IN;
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::jobs::{ClaimRequest, Finish, MAX_JOBS_PER_CALL, Renewal};
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use super::finishes::Details;
use super::record::{self, Claimed};
use super::{RedisStore, json, millis, scripts};
use crate::checkpoints::{Changes, Reported};
use crate::newer::LEFT_TO_OTHERS;
use crate::{MOST_TOO_OLD, ticket};

/// Segments kept of one job for those who watch: days of speech.
const MOST_EVENTS: usize = 50_000;

#[async_trait]
impl JobLeases for RedisStore {
    async fn claim(&self, request: ClaimRequest) -> Result<Option<Lease>, PortError> {
        let ClaimRequest { worker, nonce, idle, lease, abilities } = request;
        let mut call = self.0.wire.call(&scripts::CLAIM);
        call.arg(worker.ulid())
            .arg(nonce.as_str())
            .arg(u8::from(idle))
            .arg(millis(lease))
            .arg(abilities.digest().unwrap_or("*"))
            .arg(RESERVED_ONE_IN)
            .arg(millis(self.0.policy.result_retention))
            .arg(json(&ticket::too_old())?)
            .arg(MOST_TOO_OLD);
        let mut claimed: Claimed = self.0.wire.link.run(&call).await?;
        if matches!(claimed, Claimed::UnknownAbilities) {
            self.remember(&abilities).await?;
            claimed = self.0.wire.link.run(&call).await?;
        }
        match claimed {
            Claimed::Nothing => Ok(None),
            Claimed::Given(row) => {
                let token = record::token(&row)?;
                match record::lease(*row) {
                    Ok(lease) => Ok(Some(lease)),
                    Err(error) => Err(self.give_back(&token, error).await),
                }
            }
            Claimed::UnknownAbilities => {
                let message = "the job store forgot at once what this worker can do";
                Err(PortError::new(ErrorKind::Unavailable, message))
            }
        }
    }

    async fn work_may_be_there(&self) {
        self.0.news.work().await;
    }

    async fn renew(&self, tokens: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, PortError> {
        if tokens.len() > MAX_JOBS_PER_CALL {
            let message = format!("{} in one call; at most {MAX_JOBS_PER_CALL} are allowed", tokens.len());
            return Err(PortError::new(ErrorKind::Invalid, message));
        }
        let mut call = self.0.wire.call(&scripts::RENEW);
        call.arg(millis(lease));
        for token in tokens {
            name(&mut call, token);
        }
        let (ends, unreadable): (Vec<i64>, Vec<String>) = self.0.wire.link.run(&call).await?;
        for record in unreadable {
            tracing::error!(record, "a lease cannot be renewed because its job cannot be read: it is lost");
        }
        Ok(ends
            .into_iter()
            .map(|end| match end {
                -1 => Renewal::CancelRequested,
                -2 => Renewal::Lost,
                end => Renewal::Held { expires_at: Timestamp::from_millis(end) },
            })
            .collect())
    }

    async fn report(&self, token: &LeaseToken, report: Report) -> Result<bool, PortError> {
        let Report { progress, segments, checkpoint } = report;
        let said = Said {
            token,
            progress,
            segments: segments.iter().map(json).collect::<Result<_, _>>()?,
            indices: segments.iter().map(|segment| segment.index).collect(),
        };
        self.0.checkpoints.report(token, checkpoint, |changes| self.tell(&said, changes)).await
    }

    async fn complete(&self, token: &LeaseToken, completion: Completion) -> Result<Finish, PortError> {
        let Completion { result, duration_ms, findings, engine, model, segments, retold } = completion;
        let (segments, retold) = (segments.to_string(), u8::from(retold).to_string());
        let findings = if findings.any() { json(&findings)? } else { String::new() };
        let details = [result.into(), duration_ms.to_string(), engine, model, segments, retold, findings];
        self.finish("c", token, details).await
    }

    async fn fail(&self, token: &LeaseToken, failure: JobFailure) -> Result<Finish, PortError> {
        let (delays, refund) = steps(&self.0.policy.retry, &failure, self.0.ids.fraction());
        let [one, two, three, four] = Default::default();
        let details = [json(&failure)?, delays, u8::from(refund).to_string(), one, two, three, four];
        self.finish("f", token, details).await
    }

    async fn release(&self, token: &LeaseToken) -> Result<Finish, PortError> {
        self.finish("l", token, Default::default()).await
    }
}

/// A report, but for its checkpoint.
struct Said<'r> {
    token: &'r LeaseToken,
    progress: Option<(f32, Stage)>,
    /// JSON of each segment.
    segments: Vec<String>,
    indices: Vec<u32>,
}

impl RedisStore {
    async fn tell(&self, said: &Said<'_>, changes: Option<Arc<Changes>>) -> Result<Reported, PortError> {
        let Said { token, progress, segments, indices } = said;
        let mut call = self.0.wire.call(&scripts::REPORT);
        name(&mut call, token);
        let (progress, stage) =
            progress.map_or((String::new(), ""), |(progress, stage)| (progress.to_string(), stage.as_str()));
        call.arg(progress).arg(stage).arg(MOST_EVENTS).arg(SEGMENT_STRIDE);
        match changes.as_deref() {
            Some(changes) => call
                .arg(&changes.head)
                .arg(changes.position_ms)
                .arg(changes.base.as_deref().unwrap_or_default())
                .arg(changes.keep)
                .arg(&changes.mark)
                .arg(millis(self.0.policy.result_retention))
                .arg(changes.added().len())
                .arg(changes.added()),
            None => call.arg(["", "", "", "", "", ""].as_slice()).arg(0),
        };
        for (index, segment) in indices.iter().zip(segments) {
            call.arg(index).arg(segment);
        }
        Ok(match self.0.wire.link.run::<i8>(&call).await? {
            1 => Reported::Kept,
            -1 => Reported::LacksBase,
            _ => Reported::Lost,
        })
    }

    async fn finish(
        &self,
        call: &'static str,
        token: &LeaseToken,
        details: Details,
    ) -> Result<Finish, PortError> {
        let finished = self.0.finishes.finish(call, token, details).await?;
        self.0.checkpoints.forget(token);
        Ok(finished)
    }

    /// Tells the store what the digest stands for.
    async fn remember(&self, abilities: &Abilities) -> Result<(), PortError> {
        let (Some(digest), Some(classes)) = (abilities.digest(), abilities.classes()) else { return Ok(()) };
        let mut call = self.0.wire.call(&scripts::ABILITIES);
        call.arg(digest);
        for class in classes {
            call.arg(class.as_str());
        }
        self.0.wire.link.run(&call).await
    }

    /// Gives a job back that this node cannot read, as a newer version may write: another node may. The worker goes on; its
    /// claim is answered with this error, and repeated it gets nothing.
    async fn give_back(&self, token: &LeaseToken, error: PortError) -> PortError {
        let mut failure =
            JobFailure::new(FailureKind::EngineUnavailable, "No node that knows such jobs was free.");
        failure.retry_after = Some(LEFT_TO_OTHERS);
        let given_back = self.fail(token, failure).await;
        tracing::warn!(
            job.id = %token.job_id,
            error = &error as &dyn std::error::Error,
            given_back = given_back.is_ok(),
            "a job cannot be read and is given back; did a newer version write it?"
        );
        PortError::new(ErrorKind::Unavailable, "a job that this version cannot read was given back")
            .with_source(error)
    }
}

fn name(call: &mut ScriptInvocation<'_>, token: &LeaseToken) {
    call.arg(token.job_id.ulid()).arg(token.fence.get()).arg(token.nonce.as_str());
}

/// What to do after each number of attempts, for scripts: milliseconds to wait or -1 to give up, by
/// [`verbatim_core::retry`], whose rules are written down once. And whether the attempt is given back.
pub(super) fn steps(policy: &RetryPolicy, failure: &JobFailure, fraction: f64) -> (String, bool) {
    let mut refunded = false;
    let delays: Vec<String> = (1..=policy.max_attempts.max(1))
        .map(|attempt| match next_step(policy, attempt, failure, fraction) {
            NextStep::GiveUp => "-1".to_owned(),
            NextStep::Retry { delay, refund } => {
                refunded = refund;
                millis(delay).to_string()
            }
        })
        .collect();
    (delays.join(","), refunded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_get_the_retry_rules_as_a_table() {
        let policy = RetryPolicy { max_attempts: 4, ..RetryPolicy::default() };
        let table = |kind| steps(&policy, &JobFailure::new(kind, "x"), 0.5);
        assert_eq!(table(FailureKind::EngineFailed), ("1000,2000,4000,-1".to_owned(), false));
        assert_eq!(table(FailureKind::BadAudio), ("-1,-1,-1,-1".to_owned(), false));
        assert_eq!(table(FailureKind::Throttled), ("1000,2000,4000,8000".to_owned(), true));
    }
}
