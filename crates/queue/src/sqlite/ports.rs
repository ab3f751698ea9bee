//! The ports, each call handed to the writer or to a reader.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::caps::{AtCap, TenantUse};
use verbatim_core::class::JobClass;
use verbatim_core::event::EventSeq;
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{
    Completion, Lease, LeaseToken, NewSubmission, Report, Submission, SubmitOutcome, TenantCaps,
};
use verbatim_core::ports::jobs::{
    BlobFate, ClaimRequest, DeadLetterPage, DeadLetterQuery, DeleteOutcome, EventStream, Finish,
    GarbageRequest, ListQuery, Listing, MAX_JOBS_PER_CALL, QueueStats, Renewal, TickReport,
};
use verbatim_core::ports::{BlobKey, JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::{ErrorKind, PortError};

use crate::{blobs, check_tenants};

use super::leases::Said;
use super::{
    SqliteStore, admin, cancel, caps, claim, events, garbage, leases, submission, submit, tenants, tick,
    views,
};

#[async_trait]
impl JobClient for SqliteStore {
    async fn submit(&self, submission: NewSubmission) -> Result<SubmitOutcome, PortError> {
        let mut outcome = self.writer.call(move |step| submit::submit(step, submission)).await?;
        // The place in the queue is counted by a reader, so that a long queue does not slow the writer down. The
        // submission is durable by now: a failing count must not look like a failed submission.
        let Submission { tenant, id, .. } = &outcome.submission;
        match self.get(tenant, id).await {
            Ok(Some(now)) => {
                outcome.submission.queue_position = now.queue_position;
                outcome.submission.waiting_for = now.waiting_for;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, job.id = %id, "cannot tell the job's place in the queue"),
        }
        Ok(outcome)
    }

    async fn find_idempotent(
        &self,
        tenant: &TenantId,
        key: &str,
    ) -> Result<Option<(Submission, String)>, PortError> {
        let (tenant, key, now) = (tenant.clone(), key.to_owned(), self.clock.now());
        let serves = self.serves();
        self.readers
            .run(move |conn| {
                let found = submit::find_idempotent(conn, now, &tenant, &key)?;
                let view = |ticket, job| submission::view_beside(serves, ticket, job, None);
                Ok(found.map(|(ticket, job, digest)| (view(ticket, job), digest)))
            })
            .await
    }

    async fn get(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        let serves = self.serves();
        self.readers.run(move |conn| views::get(conn, &tenant, id.as_str(), &serves)).await
    }

    async fn list(&self, tenant: &TenantId, query: ListQuery) -> Result<Listing, PortError> {
        let (tenant, serves) = (tenant.clone(), self.serves());
        self.readers.run(move |conn| views::list(conn, &tenant, &query, &serves)).await
    }

    async fn delete(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<DeleteOutcome>, PortError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.writer.call(move |step| cancel::delete(step, &tenant, &id)).await
    }

    async fn cancel(&self, tenant: &TenantId, id: &SubmissionId) -> Result<Option<Submission>, PortError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.writer.call(move |step| cancel::cancel(step, &tenant, &id)).await
    }

    async fn is_served(&self, class: &JobClass) -> Result<bool, PortError> {
        Ok(self.signals.is_served(class, self.clock.now()))
    }

    async fn result_lost(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        result: &BlobKey,
    ) -> Result<(), PortError> {
        let (tenant, id, result) = (tenant.clone(), id.clone(), result.clone());
        self.writer.call(move |step| cancel::result_lost(step, &tenant, &id, &result)).await
    }

    async fn events(
        &self,
        tenant: &TenantId,
        id: &SubmissionId,
        after: Option<EventSeq>,
    ) -> Result<Option<EventStream>, PortError> {
        events::open(&self.readers, &self.signals, tenant, id, after).await
    }
}

#[async_trait]
impl JobLeases for SqliteStore {
    async fn claim(&self, request: ClaimRequest) -> Result<Option<Lease>, PortError> {
        let now = self.clock.now();
        self.signals.worker_asked(&request.worker, &request.abilities, now, now.plus(request.lease));
        let signals = Arc::clone(&self.signals);
        self.writer.call(move |step| claim::claim(step, &signals, &request)).await
    }

    async fn work_may_be_there(&self) {
        self.signals.work().await;
    }

    async fn renew(&self, tokens: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, PortError> {
        check_size(tokens.len())?;
        let tokens = tokens.to_vec();
        let (renewals, workers) = self.writer.call(move |step| leases::renew(step, &tokens, lease)).await?;
        let now = self.clock.now();
        for worker in &workers {
            self.signals.worker_renewed(worker, now.plus(lease));
        }
        Ok(renewals)
    }

    async fn report(&self, token: &LeaseToken, report: Report) -> Result<bool, PortError> {
        let Report { progress, segments, checkpoint } = report;
        let tell = |changes| {
            let (token, said) = (token.clone(), Said { progress, segments: segments.clone(), changes });
            self.writer.call(move |step| leases::report(step, &token, said))
        };
        self.checkpoints.report(token, checkpoint, tell).await
    }

    async fn complete(&self, token: &LeaseToken, completion: Completion) -> Result<Finish, PortError> {
        let held = token.clone();
        let finished = self.writer.call(move |step| leases::complete(step, &held, completion)).await?;
        self.checkpoints.forget(token);
        Ok(finished)
    }

    async fn fail(&self, token: &LeaseToken, failure: JobFailure) -> Result<Finish, PortError> {
        let held = token.clone();
        let finished = self.writer.call(move |step| leases::fail(step, &held, failure)).await?;
        self.checkpoints.forget(token);
        Ok(finished)
    }

    async fn release(&self, token: &LeaseToken) -> Result<Finish, PortError> {
        let held = token.clone();
        let finished = self.writer.call(move |step| leases::release(step, &held)).await?;
        self.checkpoints.forget(token);
        Ok(finished)
    }
}

#[async_trait]
impl JobUpkeep for SqliteStore {
    async fn tick(&self) -> Result<TickReport, PortError> {
        let done = self.writer.call(tick::tick).await?;
        Ok(TickReport { revived: self.signals.take_revived(), ..done })
    }

    async fn take_garbage(&self, request: GarbageRequest) -> Result<Vec<BlobKey>, PortError> {
        // A reader looks first: most rounds find nothing, and need no commit.
        let (now, grace) = (self.clock.now(), request.grace);
        if !self.readers.run(move |conn| garbage::is_any(conn, now, grace)).await? {
            return Ok(Vec::new());
        }
        self.writer.call(move |step| garbage::take(step, request)).await
    }

    async fn blobs_deleted(&self, keys: &[BlobKey]) -> Result<(), PortError> {
        blobs::check_size(keys.len())?;
        let keys = keys.to_vec();
        self.writer.call(move |step| garbage::deleted(step, &keys)).await
    }

    async fn fates(&self, keys: &[BlobKey]) -> Result<Vec<BlobFate>, PortError> {
        blobs::check_size(keys.len())?;
        let keys = keys.to_vec();
        self.readers.run(move |conn| keys.iter().map(|key| garbage::fate(conn, key)).collect()).await
    }

    async fn stats(&self) -> Result<QueueStats, PortError> {
        let now = self.clock.now();
        let workers = self.signals.workers(now);
        let mut stats = self.readers.run(move |conn| views::stats(conn, now, workers)).await?;
        stats.max_submissions = self.policy.max_remembered_of_all;
        stats.unserved.retain(|(class, _)| !self.signals.is_served(class, now));
        Ok(stats)
    }

    async fn ping(&self) -> Result<(), PortError> {
        self.writer.call(|_| Ok(())).await
    }
}

#[async_trait]
impl JobAdmin for SqliteStore {
    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<DeadLetterPage, PortError> {
        self.readers.run(move |conn| admin::dead_letters(conn, &query)).await
    }

    async fn redrive(&self, id: &JobId) -> Result<bool, PortError> {
        let id = id.clone();
        self.writer.call(move |step| admin::redrive(step, &id)).await
    }

    async fn discard_dead_letter(&self, id: &JobId) -> Result<bool, PortError> {
        let id = id.clone();
        self.writer.call(move |step| admin::discard(step, &id)).await
    }

    async fn set_caps(&self, caps: &[(TenantId, TenantCaps)]) -> Result<AtCap, PortError> {
        check_tenants(caps.len())?;
        let caps = caps.to_vec();
        self.writer.call(move |step| caps::set(step, &caps)).await
    }

    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError> {
        check_tenants(tenants.len())?;
        let all = tenants.to_vec();
        self.readers.run(move |conn| all.iter().map(|one| tenants::takes_up(conn, one)).collect()).await
    }
}

impl SqliteStore {
    /// Whether a worker that is there now can do jobs of a class: only the process knows that.
    fn serves(&self) -> impl Fn(&JobClass) -> bool + Send + use<> {
        let (signals, now) = (Arc::clone(&self.signals), self.clock.now());
        move |class| signals.is_served(class, now)
    }
}

fn check_size(items: usize) -> Result<(), PortError> {
    if items > MAX_JOBS_PER_CALL {
        let message = format!("{items} in one call; at most {MAX_JOBS_PER_CALL} are allowed");
        return Err(PortError::new(ErrorKind::Invalid, message));
    }
    Ok(())
}
