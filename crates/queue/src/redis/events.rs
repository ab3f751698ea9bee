//! The events of a submission, for [`crate::watching`]. Redis keeps segments; all other events follow from the job itself,
//! the last of each kind: a snapshot, which grows while the job goes on.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use verbatim_core::event::{EventKind, EventSeq, JobEvent, segment_seq};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::time::Timestamp;
use verbatim_core::{BadJson, PortError};

use super::record::{self, Fields, View};
use super::{RedisStore, scripts};
use crate::newer::{self, readable, unreadable};
use crate::watching::{self, PAGE, Page, Pages, removed};

/// How often a watcher looks without news: what is published can be lost.
const POLL: Duration = Duration::from_secs(5);

/// The events of one submission.
struct Source {
    store: RedisStore,
    id: SubmissionId,
    news: watch::Receiver<()>,
}

#[async_trait]
impl Pages for Source {
    async fn read(&mut self, after: u64) -> Result<Page, PortError> {
        self.news.borrow_and_update();
        page(&self.store, &self.id, after).await
    }

    async fn news(&mut self) -> Result<(), PortError> {
        // The sender lives as long as the store: only news or the time-out end this.
        let _ = tokio::time::timeout(POLL, self.news.changed()).await;
        Ok(())
    }
}

/// Opens the stream; `None` when there is no such submission.
pub(super) async fn open(
    store: &RedisStore,
    tenant: &TenantId,
    id: &SubmissionId,
    after: Option<EventSeq>,
) -> Result<Option<EventStream>, PortError> {
    let Some((view, ..)) = read(store, tenant.as_str(), id, 0, 0).await? else { return Ok(None) };
    let (_, job, .., job_id, _) = view;
    let last_seq = job.number("ls")?.unwrap_or(0);
    let source = Source { store: store.clone(), id: id.clone(), news: store.0.news.watch(&job_id) };
    Ok(Some(watching::stream(source, after, last_seq)))
}

/// The submission's view, its stored segments after a number, and the number of the last of these where there may be more; an
/// empty tenant stands for anyone.
async fn read(
    store: &RedisStore,
    tenant: &str,
    id: &SubmissionId,
    after: u64,
    most: usize,
) -> Result<Option<(View, Vec<String>, Option<u64>)>, PortError> {
    let mut call = store.0.wire.call(&scripts::EVENTS);
    call.arg(tenant).arg(id.ulid()).arg(after).arg(most);
    store.0.wire.link.run(&call).await
}

async fn page(store: &RedisStore, id: &SubmissionId, after: u64) -> Result<Page, PortError> {
    let found = read(store, "", id, after, PAGE).await?;
    let Some(((sub, job, ..), stored, goes_on_after)) = found else { return Err(removed()) };
    let ticket = record::ticket(&sub)?;
    let more = goes_on_after.is_some();
    let mut events: Vec<JobEvent> = readable("an event", stored.iter().map(|line| segment(line))).collect();
    // Beyond a full page there may be segments that come before what follows from the job.
    let horizon = goes_on_after.unwrap_or(u64::MAX);
    events.extend(of_the_job(&job)?);
    let (first, until) = (ticket.first_seq.max(after + 1), ticket.ended.map_or(u64::MAX, |ended| ended.seq));
    events.retain(|event| (first..=horizon).contains(&event.seq.0) && event.seq.0 < until);
    if stored.is_empty() {
        events.extend(of_the_transcript(&job, until)?.into_iter().filter(|event| event.seq.0 >= first));
    }
    let last = !more && ticket.status(record::state(job.needed("s")?)).is_terminal();
    if let Some(ended) = ticket.ended.filter(|ended| !more && ended.seq > after) {
        events.push(ended.event());
    }
    events.sort_by_key(|event| event.seq);
    Ok(Page { events: events.into(), last, goes_on_after })
}

/// A stored segment: `number|millis|json`.
fn segment(line: &str) -> Result<JobEvent, PortError> {
    let broken = || unreadable("an event");
    let mut parts = line.splitn(3, '|');
    let mut part = || parts.next().ok_or_else(broken);
    let seq = part()?.parse().map_err(|_| broken())?;
    let at = part()?.parse().map_err(|_| broken())?;
    let kind = serde_json::from_str(part()?).map_err(|error| broken().with_source(BadJson::from(error)))?;
    Ok(JobEvent { seq: EventSeq(seq), at: Timestamp::from_millis(at), kind })
}

/// Of a completed job: that its attempt began, and its segments, which are in the transcript. Where an older node completed it
/// after a retry, the first of the two has lost its number: it gets one before all segments, and before the end of a submission
/// that left.
fn of_the_transcript(job: &Fields, until: u64) -> Result<Vec<JobEvent>, PortError> {
    let (Some("c"), Some(end), Some(at)) = (job.text("s"), job.number::<u64>("es")?, job.time("F")?) else {
        return Ok(Vec::new());
    };
    let attempt = job.number("a")?.unwrap_or(0);
    // A later attempt may have been reported by a node of a version that did not number segments so.
    let first =
        job.text("sb").and_then(|sb| sb.split_once(':')).filter(|(fence, _)| job.text("f") == Some(fence));
    let first: Option<u64> = first.and_then(|(_, first)| first.parse().ok());
    let count = job.number::<u32>("ns")?.unwrap_or(0);
    let mut events = Vec::new();
    // A job that was begun once told so right after it was queued, whatever came then.
    let usual = if job.text("f") == Some("1") { 2 } else { first.unwrap_or(end).saturating_sub(1) };
    let begun = EventSeq(job.number("sq")?.unwrap_or(usual.min(until.saturating_sub(1))));
    if begun.0 < until {
        let at = job.time("sT")?.or(job.time("S")?).unwrap_or(at);
        events.push(JobEvent { seq: begun, at, kind: EventKind::Started { attempt } });
    }
    if let Some(first) = first.map(EventSeq).filter(|_| count > 0 && until == u64::MAX) {
        let kind = EventKind::Transcribed { attempt, first, count };
        events.push(JobEvent { seq: segment_seq(first, count - 1), at, kind });
    }
    Ok(events)
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
        (job.number("ep")?.unwrap_or(0.0), newer::stage(job.text("eg").unwrap_or("fetching")));
    add("ps", "pT", EventKind::Progress { progress, stage })?;
    let end = match record::state(job.needed("s")?) {
        JobState::Completed => EventKind::Completed,
        JobState::Cancelled => EventKind::Cancelled,
        JobState::Failed => EventKind::Failed { failure: newer::failure(job.needed("E")?) },
        JobState::Queued | JobState::Delayed | JobState::Running => return Ok(events),
    };
    add("es", "F", end)?;
    Ok(events)
}
