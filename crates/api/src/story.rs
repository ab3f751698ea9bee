//! The events of a submission as clients see them. The store keeps segments only until the job ends: then they are in the
//! transcript, and are put back in their places here, under the numbers that they had.

use std::collections::VecDeque;

use futures::{StreamExt, stream};
use verbatim_core::event::{EventKind, EventSeq, JobEvent, segment_seq};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::ports::blobs::get_bytes;
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_core::{BadJson, ErrorKind, PortError};

use crate::audit::Subject;
use crate::state::ApiState;

/// The events after `after`, segments among them, whose reading `subject` writes down; `None` when there is no such
/// submission.
///
/// # Errors
/// What the store says.
pub(crate) async fn events(
    state: &ApiState,
    subject: &Subject,
    tenant: &TenantId,
    id: &SubmissionId,
    after: Option<EventSeq>,
) -> Result<Option<EventStream>, PortError> {
    subject.set_job(id);
    let Some(stored) = state.jobs.events(tenant, id, after).await? else { return Ok(None) };
    let story = Story {
        state: state.clone(),
        tenant: tenant.clone(),
        id: id.clone(),
        stored,
        seen: after.unwrap_or(EventSeq(0)),
        ahead: VecDeque::new(),
    };
    Ok(Some(stream::try_unfold(story, Story::next).boxed()))
}

struct Story {
    state: ApiState,
    tenant: TenantId,
    id: SubmissionId,
    stored: EventStream,
    /// The last event that the client has. A number that the job never gave is of another life of the client, which
    /// starts over: the first event that comes shows it.
    seen: EventSeq,
    ahead: VecDeque<JobEvent>,
}

impl Story {
    async fn next(mut self) -> Result<Option<(JobEvent, Self)>, PortError> {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                self.seen = event.seq;
                return Ok(Some((event, self)));
            }
            let Some(event) = self.stored.next().await.transpose()? else { return Ok(None) };
            if event.seq <= self.seen {
                self.seen = EventSeq(0);
            }
            match event.kind {
                EventKind::Transcribed { attempt, first, count } => {
                    let segments = segments(&self.state, &self.tenant, &self.id).await?;
                    let told = segments.into_iter().zip(0..count).map(|(segment, index)| JobEvent {
                        seq: segment_seq(first, index),
                        at: event.at,
                        kind: EventKind::Segment { attempt, segment },
                    });
                    self.ahead = told.filter(|told| told.seq > self.seen).collect();
                    self.seen = event.seq;
                }
                _ => self.ahead.push_back(event),
            }
        }
    }
}

/// The segments of the transcript. None when the result has expired: the end follows.
async fn segments(state: &ApiState, tenant: &TenantId, id: &SubmissionId) -> Result<Vec<Segment>, PortError> {
    let submission = state.jobs.get(tenant, id).await?;
    let Some(key) = submission.and_then(|submission| submission.result) else { return Ok(Vec::new()) };
    let bytes = match get_bytes(state.blobs.as_ref(), &key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    };
    match serde_json::from_slice::<Transcript>(&bytes) {
        Ok(transcript) => Ok(transcript.segments),
        // The end of the job has to come all the same.
        Err(error) => {
            let error = BadJson::from(error);
            tracing::error!(blob = %key, error = &error as &dyn std::error::Error, "a stored result cannot be read");
            Ok(Vec::new())
        }
    }
}
