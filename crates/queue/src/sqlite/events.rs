//! The stream of a submission's events: what is stored, then what comes, page by page from the store itself. A watcher
//! is only told that there is news, so nothing is lost or sent twice however slow it is.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream;
use rusqlite::{Connection, params};
use tokio::sync::watch;
use verbatim_core::event::{EventKind, EventSeq, JobEvent};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use super::error::StoreResult;
use super::job::{Job, signed, unsigned};
use super::readers::Readers;
use super::submission::{self, Ticket};
use super::watch::Signals;

/// Events read at a time.
const PAGE: usize = 256;

/// What follows after some event.
struct Page {
    events: VecDeque<JobEvent>,
    /// Whether nothing will follow this page.
    last: bool,
}

/// Where a watcher is.
struct Watcher {
    readers: Readers,
    news: watch::Receiver<()>,
    ticket: SubmissionId,
    after: u64,
    page: Page,
}

/// Opens the stream; `None` when there is no such submission.
pub(super) async fn open(
    readers: &Readers,
    signals: &Arc<Signals>,
    tenant: &TenantId,
    id: &SubmissionId,
    after: Option<EventSeq>,
) -> Result<Option<EventStream>, PortError> {
    let (tenant, ticket) = (tenant.clone(), id.clone());
    let own = readers.run(move |conn| submission::load_own(conn, &tenant, ticket.as_str())).await?;
    let Some((ticket, job)) = own else { return Ok(None) };
    // A number that this job never gave is from another life of the client: it starts over.
    let after = after.map_or(0, |seq| seq.0);
    let after = if after > job.last_seq { 0 } else { after };
    let watcher = Watcher {
        readers: readers.clone(),
        news: signals.watch(&job.id),
        ticket: ticket.id,
        after,
        page: Page { events: VecDeque::new(), last: false },
    };
    Ok(Some(Box::pin(stream::try_unfold(watcher, next))))
}

async fn next(mut watcher: Watcher) -> Result<Option<(JobEvent, Watcher)>, PortError> {
    let mut looked = false;
    loop {
        if let Some(event) = watcher.page.events.pop_front() {
            watcher.after = event.seq.0;
            return Ok(Some((event, watcher)));
        }
        if watcher.page.last {
            return Ok(None);
        }
        if looked && watcher.news.changed().await.is_err() {
            return Err(PortError::new(ErrorKind::Unavailable, "the job store has stopped"));
        }
        // From here on, any change after the read below is news again.
        watcher.news.borrow_and_update();
        let (ticket, after) = (watcher.ticket.clone(), watcher.after);
        watcher.page = watcher.readers.run(move |conn| read_page(conn, &ticket, after)).await?;
        looked = true;
    }
}

fn read_page(conn: &Connection, id: &SubmissionId, after: u64) -> StoreResult<Page> {
    let Some((ticket, job)) = submission::load(conn, id.as_str())? else {
        return Err(PortError::new(ErrorKind::NotFound, "the job was removed while it was watched").into());
    };
    let (mut events, more) = stored(conn, &ticket, &job, after)?;
    let mut last = !more && ticket.status(&job).is_terminal();
    if let Some(ended) = ticket.ended.filter(|_| !more) {
        events.extend(Some(ended.event()).filter(|event| event.seq.0 > after));
        last = true;
    }
    Ok(Page { events, last })
}

/// A page of the job's events that are this submission's too, and whether there are more.
fn stored(
    conn: &Connection,
    ticket: &Ticket,
    job: &Job,
    after: u64,
) -> StoreResult<(VecDeque<JobEvent>, bool)> {
    let from = ticket.first_seq.max(after + 1);
    let until = ticket.ended.map_or(u64::MAX, |ended| ended.seq);
    let mut statement = conn.prepare_cached(
        "SELECT seq, at, body FROM events WHERE job_id = ?1 AND seq >= ?2 AND seq < ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![job.id.as_str(), signed(from), signed(until), PAGE as i64])?;
    let mut events = VecDeque::new();
    while let Some(row) = rows.next()? {
        let kind: EventKind = serde_json::from_str(&row.get::<_, String>(2)?)?;
        let seq = EventSeq(unsigned(row.get(0)?));
        events.push_back(JobEvent { seq, at: Timestamp::from_millis(row.get(1)?), kind });
    }
    let more = events.len() == PAGE;
    Ok((events, more))
}
