//! Following a submission until it ends.

use std::time::Duration;

use futures::StreamExt;
use verbatim_core::PortError;
use verbatim_core::event::{EventSeq, JobEvent};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::Submission;
use verbatim_core::ports::jobs::EventStream;

use crate::audit::Subject;
use crate::error::{ApiError, chain};
use crate::extract::Caller;
use crate::stages::RequestPermit;
use crate::state::ApiState;
use crate::story;

/// Before a broken stream is asked for again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Breaks in a row after which the store counts as down.
const MAX_BREAKS: u32 = 10;

/// The events of a submission, across breaks of the store's stream.
pub(crate) struct Watch {
    state: ApiState,
    tenant: TenantId,
    id: SubmissionId,
    last: Option<EventSeq>,
    stream: Option<EventStream>,
    /// What the audit knows the reading of words by: segments of a finished job are told as well, read from its transcript.
    /// `None` for a wait for the end, which tells no words and must not fail while the blob store is away.
    reading: Option<Subject>,
}

impl Watch {
    /// Follows the submission from its first event, words included.
    pub(crate) fn new(state: &ApiState, subject: Subject, tenant: TenantId, id: SubmissionId) -> Self {
        Self { reading: Some(subject), ..Self::until_end(state, tenant, id) }
    }

    /// Follows the submission to its end.
    fn until_end(state: &ApiState, tenant: TenantId, id: SubmissionId) -> Self {
        Self { state: state.clone(), tenant, id, last: None, stream: None, reading: None }
    }

    /// The next event; `None` when there are no more, or no such submission any more.
    ///
    /// # Errors
    /// When the store stays down.
    pub(crate) async fn next(&mut self) -> Result<Option<JobEvent>, PortError> {
        let mut breaks = 0;
        loop {
            let error = match self.try_next().await {
                Ok(event) => return Ok(event),
                Err(error) => error,
            };
            self.stream = None;
            breaks += 1;
            if breaks == MAX_BREAKS {
                return Err(error);
            }
            tracing::warn!(error = %chain(&error), job.id = %self.id, "an event stream broke and is asked for again");
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn try_next(&mut self) -> Result<Option<JobEvent>, PortError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = match &self.reading {
                    Some(subject) => {
                        story::events(&self.state, subject, &self.tenant, &self.id, self.last).await?
                    }
                    None => self.state.jobs.events(&self.tenant, &self.id, self.last).await?,
                };
                match opened {
                    Some(stream) => self.stream.insert(stream),
                    None => return Ok(None),
                }
            }
        };
        let event = stream.next().await.transpose()?;
        if let Some(event) = &event {
            self.last = Some(event.seq);
        }
        Ok(event)
    }
}

/// The submission as it now stands.
///
/// # Errors
/// 404 when there is none; what the store says.
pub(crate) async fn current(
    state: &ApiState,
    tenant: &TenantId,
    id: &SubmissionId,
) -> Result<Submission, ApiError> {
    state.jobs.get(tenant, id).await?.ok_or_else(ApiError::no_such_job)
}

/// The submission when it has ended, or as it stands when `wait` is over or the process is to stop. Who waits gives up
/// its permit for that.
///
/// # Errors
/// 404 when it is gone; 503 when too many wait; what the store says.
pub(crate) async fn settled(
    state: &ApiState,
    permit: &RequestPermit,
    caller: &Caller,
    id: &SubmissionId,
    wait: Option<Duration>,
) -> Result<Submission, ApiError> {
    let tenant = &caller.principal.tenant;
    let submission = current(state, tenant, id).await?;
    let Some(wait) = wait.filter(|_| !submission.status.is_terminal()) else { return Ok(submission) };
    let _waiting = permit.watch(state, &caller.holder).await?;
    tokio::select! {
        ended = ended(state, tenant, id) => ended,
        () = tokio::time::sleep(wait) => current(state, tenant, id).await,
        () = state.shutdown.cancelled() => current(state, tenant, id).await,
    }
}

/// The submission, once its last event has come.
///
/// # Errors
/// 404 when it is gone; what the store says.
pub(crate) async fn ended(
    state: &ApiState,
    tenant: &TenantId,
    id: &SubmissionId,
) -> Result<Submission, ApiError> {
    let mut watch = Watch::until_end(state, tenant.clone(), id.clone());
    while let Some(event) = watch.next().await? {
        if event.kind.is_terminal() {
            break;
        }
    }
    current(state, tenant, id).await
}
