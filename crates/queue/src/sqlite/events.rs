//! The events of a submission, for [`crate::watching`]: all of them are stored.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::watch;
use verbatim_core::event::{EventKind, EventSeq, JobEvent, segment_seq};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use super::error::StoreResult;
use super::job::{Job, signed, unsigned};
use super::readers::Readers;
use super::submission;
use super::watch::Signals;
use crate::newer::{readable, unreadable};
use crate::ticket::Ticket;
use crate::watching::{self, PAGE, Page, Pages, removed};

/// The events of one submission.
struct Source {
    readers: Readers,
    news: watch::Receiver<()>,
    id: SubmissionId,
}

#[async_trait]
impl Pages for Source {
    async fn read(&mut self, after: u64) -> Result<Page, PortError> {
        self.news.borrow_and_update();
        let id = self.id.clone();
        self.readers.run(move |conn| page(conn, &id, after)).await
    }

    async fn news(&mut self) -> Result<(), PortError> {
        let stopped = |_| PortError::new(ErrorKind::Unavailable, "the job store has stopped");
        self.news.changed().await.map_err(stopped)
    }
}

/// Opens the stream; `None` when there is no such submission.
pub(super) async fn open(
    readers: &Readers,
    signals: &Arc<Signals>,
    tenant: &TenantId,
    id: &SubmissionId,
    after: Option<EventSeq>,
) -> Result<Option<EventStream>, PortError> {
    let (tenant, id) = (tenant.clone(), id.clone());
    let own = readers.run(move |conn| submission::load_own(conn, &tenant, id.as_str())).await?;
    let Some((ticket, job)) = own else { return Ok(None) };
    let source = Source { readers: readers.clone(), news: signals.watch(&job.id), id: ticket.id };
    Ok(Some(watching::stream(source, after, job.last_seq)))
}

fn page(conn: &Connection, id: &SubmissionId, after: u64) -> StoreResult<Page> {
    let Some((ticket, job)) = submission::load(conn, id.as_str())? else { return Err(removed().into()) };
    let (mut events, goes_on_after) = stored(conn, &ticket, &job, after)?;
    let more = goes_on_after.is_some();
    let mut last = !more && ticket.status(job.state).is_terminal();
    if let Some(transcribed) = of_the_transcript(&job).filter(|_| !more && ticket.ended.is_none()) {
        events
            .retain(|event| event.seq > transcribed.seq || !matches!(event.kind, EventKind::Progress { .. }));
        let from = EventSeq(ticket.first_seq.max(after + 1));
        events.extend(Some(transcribed).filter(|transcribed| transcribed.seq >= from));
        events.make_contiguous().sort_by_key(|event| event.seq);
    }
    if let Some(ended) = ticket.ended.filter(|_| !more) {
        events.extend(Some(ended.event()).filter(|event| event.seq.0 > after));
        last = true;
    }
    Ok(Page { events, last, goes_on_after })
}

/// The segments of a completed job, which are in its transcript.
fn of_the_transcript(job: &Job) -> Option<JobEvent> {
    let completed = job.state == JobState::Completed && job.next_segment > 0;
    let (first, at) = (EventSeq(job.segments_from.filter(|_| completed)?), job.finished_at?);
    let kind = EventKind::Transcribed { attempt: job.attempt, first, count: job.next_segment };
    Some(JobEvent { seq: segment_seq(first, job.next_segment - 1), at, kind })
}

/// A page of the job's events that are this submission's too, and the number of the last that is stored where there may be more.
fn stored(
    conn: &Connection,
    ticket: &Ticket,
    job: &Job,
    after: u64,
) -> StoreResult<(VecDeque<JobEvent>, Option<u64>)> {
    let from = ticket.first_seq.max(after + 1);
    let until = ticket.ended.map_or(u64::MAX, |ended| ended.seq);
    let mut statement = conn.prepare_cached(
        "SELECT seq, at, body FROM events WHERE job_id = ?1 AND seq >= ?2 AND seq < ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![job.id.as_str(), signed(from), signed(until), PAGE as i64])?;
    let (mut found, mut last) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let kind = serde_json::from_str::<EventKind>(&row.get::<_, String>(2)?);
        let (seq, at) = (EventSeq(unsigned(row.get(0)?)), Timestamp::from_millis(row.get(1)?));
        last = Some(seq.0);
        found
            .push(kind.map(|kind| JobEvent { seq, at, kind }).map_err(|error| unreadable(error.to_string())));
    }
    let goes_on_after = last.filter(|_| found.len() == PAGE);
    Ok((readable("an event", found.into_iter()).collect(), goes_on_after))
}
