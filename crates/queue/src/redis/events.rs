//! The stream of a submission's events. Redis keeps segments; all other events follow from the job itself, the last of
//! each kind: a snapshot, which grows while the job goes on. A watcher is only told that there is news and reads again
//! what came after the last event that it saw, so nothing is lost or sent twice however slow it is.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream;
use tokio::sync::watch;
use verbatim_core::event::{EventKind, EventSeq, JobEvent};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use super::error::corrupt;
use super::record::{self, Fields, View};
use super::{RedisStore, scripts};

/// Segments read at a time.
const PAGE: usize = 256;
/// How often a watcher looks without news: what is published can be lost.
const POLL: Duration = Duration::from_secs(5);

/// What follows after some event.
struct Page {
    events: VecDeque<JobEvent>,
    /// Whether nothing will follow this page.
    last: bool,
}

/// Where a watcher is.
struct Watcher {
    store: RedisStore,
    id: SubmissionId,
    news: watch::Receiver<()>,
    after: u64,
    page: Page,
}

/// Opens the stream; `None` when there is no such submission.
pub(super) async fn open(
    store: &RedisStore,
    tenant: &TenantId,
    id: &SubmissionId,
    after: Option<EventSeq>,
) -> Result<Option<EventStream>, PortError> {
    let Some((view, _)) = read(store, tenant.as_str(), id, 0, 0).await? else { return Ok(None) };
    let (_, job, .., job_id) = view;
    let last: u64 = job.number("ls")?.unwrap_or(0);
    // A number that this job never gave is from another life of the client: it starts over.
    let after = after.map_or(0, |seq| seq.0);
    let watcher = Watcher {
        store: store.clone(),
        id: id.clone(),
        news: store.0.news.watch(&job_id),
        after: if after > last { 0 } else { after },
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
        if looked {
            // The sender lives as long as the store, which the watcher holds: only news or the time-out end this.
            let _ = tokio::time::timeout(POLL, watcher.news.changed()).await;
        }
        // From here on, any change after the read below is news again.
        watcher.news.borrow_and_update();
        watcher.page = page(&watcher).await?;
        looked = true;
    }
}

/// The submission's view and its stored segments after a number; an empty tenant stands for anyone.
async fn read(
    store: &RedisStore,
    tenant: &str,
    id: &SubmissionId,
    after: u64,
    most: usize,
) -> Result<Option<(View, Vec<String>)>, PortError> {
    let mut call = store.0.wire.call(&scripts::EVENTS);
    call.arg(tenant).arg(id.ulid()).arg(after).arg(most);
    store.0.wire.link.run(&call).await
}

async fn page(watcher: &Watcher) -> Result<Page, PortError> {
    let found = read(&watcher.store, "", &watcher.id, watcher.after, PAGE).await?;
    let Some(((sub, job, ..), stored)) = found else {
        return Err(PortError::new(ErrorKind::NotFound, "the job was removed while it was watched"));
    };
    let ticket = record::ticket(&sub)?;
    let more = stored.len() == PAGE;
    let mut events: Vec<JobEvent> = stored.iter().map(|line| segment(line)).collect::<Result<_, _>>()?;
    // Beyond a full page there may be segments that come before what follows from the job.
    let horizon = if more { events.last().map_or(0, |event| event.seq.0) } else { u64::MAX };
    events.extend(of_the_job(&job)?);
    let (first, until) =
        (ticket.first_seq.max(watcher.after + 1), ticket.ended.map_or(u64::MAX, |ended| ended.seq));
    events.retain(|event| (first..=horizon).contains(&event.seq.0) && event.seq.0 < until);
    let last = !more && ticket.status(record::state(job.needed("s")?)?).is_terminal();
    if let Some(ended) = ticket.ended.filter(|ended| !more && ended.seq > watcher.after) {
        events.push(ended.event());
    }
    events.sort_by_key(|event| event.seq);
    Ok(Page { events: events.into(), last })
}

/// A stored segment: `number|millis|json`.
fn segment(line: &str) -> Result<JobEvent, PortError> {
    let broken = || corrupt("an event");
    let mut parts = line.splitn(3, '|');
    let mut part = || parts.next().ok_or_else(broken);
    let seq = part()?.parse().map_err(|_| broken())?;
    let at = part()?.parse().map_err(|_| broken())?;
    let kind = serde_json::from_str(part()?).map_err(|error| broken().with_source(error))?;
    Ok(JobEvent { seq: EventSeq(seq), at: Timestamp::from_millis(at), kind })
}

/// The last event of each other kind, as the job's fields tell.
fn of_the_job(job: &Fields) -> Result<Vec<JobEvent>, PortError> {
    let mut events = Vec::new();
    let mut add = |seq: &str, at: &str, kind: EventKind| {
        if let (Some(seq), Some(at)) = (job.number(seq)?, job.time(at)?) {
            events.push(JobEvent { seq: EventSeq(seq), at, kind });
        }
        Ok::<(), PortError>(())
    };
    add("qs", "qt", EventKind::Queued { attempt: job.number("qa")?.unwrap_or(0) })?;
    add("ss", "sT", EventKind::Started { attempt: job.number("sa")?.unwrap_or(0) })?;
    let (progress, stage) =
        (job.number("ep")?.unwrap_or(0.0), record::stage(job.text("eg").unwrap_or("fetching"))?);
    add("ps", "pT", EventKind::Progress { progress, stage })?;
    let end = match record::state(job.needed("s")?)? {
        JobState::Completed => EventKind::Completed,
        JobState::Cancelled => EventKind::Cancelled,
        JobState::Failed => {
            let failure = serde_json::from_str(job.needed("E")?);
            EventKind::Failed { failure: failure.map_err(|error| corrupt("a failure").with_source(error))? }
        }
        JobState::Queued | JobState::Delayed | JobState::Running => return Ok(events),
    };
    add("es", "F", end)?;
    Ok(events)
}
