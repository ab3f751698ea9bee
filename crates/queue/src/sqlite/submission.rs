//! One row of `submissions`, and the view of it and its job that clients get.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use verbatim_core::event::{EventKind, EventSeq, JobEvent, Stage};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{JobState, Submission, SubmissionStatus};
use verbatim_core::time::Timestamp;

use super::error::{StoreError, StoreResult};
use super::job::{self, Job, json, parsed, signed, time, time_of, unsigned};
use super::transitions::{self, End};
use super::writer::Step;

/// A submission as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) id: SubmissionId,
    pub(super) job_id: JobId,
    pub(super) tenant: TenantId,
    pub(super) created_at: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) cached: bool,
    pub(super) deduplicated: bool,
    pub(super) first_seq: u64,
    pub(super) ended: Option<Ended>,
}

/// How a submission ended apart from its job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) how: EndedHow,
    pub(super) at: Timestamp,
    pub(super) seq: u64,
}

/// Why a submission ended apart from its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedHow {
    /// Its client cancelled it.
    Cancelled,
    /// Its own deadline passed.
    Expired,
}

impl EndedHow {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    fn status(self) -> SubmissionStatus {
        match self {
            Self::Cancelled => SubmissionStatus::Cancelled,
            Self::Expired => SubmissionStatus::Failed,
        }
    }

    fn event(self) -> EventKind {
        match self {
            Self::Cancelled => EventKind::Cancelled,
            Self::Expired => EventKind::Failed { failure: missed_deadline() },
        }
    }
}

/// What the client of a submission that was too late is told.
pub(super) fn missed_deadline() -> JobFailure {
    JobFailure::new(FailureKind::Expired, "The deadline passed before the transcript was there.")
}

impl Ended {
    /// The last event of this submission's stream.
    pub(super) fn event(self) -> JobEvent {
        JobEvent { seq: EventSeq(self.seq), at: self.at, kind: self.how.event() }
    }
}

impl Ticket {
    /// Where it is.
    pub(super) fn status(&self, job: &Job) -> SubmissionStatus {
        self.ended.map_or(SubmissionStatus::from(job.state), |ended| ended.how.status())
    }

    /// What its client sees.
    pub(super) fn view(&self, job: &Job, queue_position: Option<u64>) -> Submission {
        let since_created = |time: Timestamp| time.max(self.created_at);
        let failure = match self.ended.map(|ended| ended.how) {
            Some(EndedHow::Expired) => Some(missed_deadline()),
            Some(EndedHow::Cancelled) => None,
            None => job.failure.clone(),
        };
        Submission {
            id: self.id.clone(),
            job_id: job.id.clone(),
            tenant: self.tenant.clone(),
            status: self.status(job),
            progress: job.progress,
            stage: if self.ended.is_some() { Stage::Done } else { job.stage },
            created_at: self.created_at,
            started_at: job.started_at.map(since_created),
            finished_at: self.ended.map(|ended| ended.at).or(job.finished_at.map(since_created)),
            queue_position: queue_position.filter(|_| self.ended.is_none()),
            attempt: job.attempt,
            engine: job.engine.clone(),
            options: job.options.clone(),
            priority: job.tier,
            audio: job.audio.clone(),
            cached: self.cached,
            deduplicated: self.deduplicated,
            failure,
            result: job.result.clone().filter(|_| self.ended.is_none()),
            metadata: self.metadata.clone(),
        }
    }
}

/// Reads the columns of `submissions`.
pub(super) fn from_row(row: &Row<'_>) -> StoreResult<Ticket> {
    let how = match row.get::<_, Option<String>>("ended")?.as_deref() {
        None => None,
        Some("cancelled") => Some(EndedHow::Cancelled),
        Some("expired") => Some(EndedHow::Expired),
        Some(other) => return Err(StoreError::Corrupt(format!("a submission ended as `{other}`"))),
    };
    let seq: Option<i64> = row.get("ended_seq")?;
    let ended = match (how, time(row, "ended_at")?, seq) {
        (Some(how), Some(at), Some(seq)) => Some(Ended { how, at, seq: unsigned(seq) }),
        _ => None,
    };
    Ok(Ticket {
        id: parsed(SubmissionId::parse(&row.get::<_, String>("id")?))?,
        job_id: parsed(JobId::parse(&row.get::<_, String>("job_id")?))?,
        tenant: parsed(TenantId::parse(&row.get::<_, String>("tenant")?))?,
        created_at: time_of(row, "created_at")?,
        deadline: time(row, "deadline")?,
        metadata: json(row, "metadata")?,
        cached: row.get("cached")?,
        deduplicated: row.get("deduplicated")?,
        first_seq: unsigned(row.get("first_seq")?),
        ended,
    })
}

/// The submission with its job, whoever it belongs to.
pub(super) fn load(conn: &Connection, id: &str) -> StoreResult<Option<(Ticket, Job)>> {
    let mut statement = conn.prepare_cached("SELECT * FROM submissions WHERE id = ?1")?;
    let Some(ticket) = statement.query_row([id], |row| Ok(from_row(row))).optional()?.transpose()? else {
        return Ok(None);
    };
    let job = job::load_existing(conn, ticket.job_id.as_str())?;
    Ok(Some((ticket, job)))
}

/// The submission with its job, if it is this tenant's.
pub(super) fn load_own(conn: &Connection, tenant: &TenantId, id: &str) -> StoreResult<Option<(Ticket, Job)>> {
    Ok(load(conn, id)?.filter(|(ticket, _)| ticket.tenant == *tenant))
}

/// Adds the submission.
pub(super) fn insert(conn: &Connection, ticket: &Ticket) -> StoreResult<()> {
    conn.prepare_cached(
        "INSERT INTO submissions (id, job_id, tenant, created_at, deadline, metadata, cached, deduplicated, first_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        ticket.id.as_str(),
        ticket.job_id.as_str(),
        ticket.tenant.as_str(),
        ticket.created_at.as_millis(),
        ticket.deadline.map(Timestamp::as_millis),
        serde_json::to_string(&ticket.metadata)?,
        ticket.cached,
        ticket.deduplicated,
        signed(ticket.first_seq),
    ])?;
    Ok(())
}

/// Ends a submission that has not ended, and its job when it was the last that waited for it. A running job is asked
/// to stop when it was cancelled, and stopped when it is too late anyway.
pub(super) fn end_apart(
    step: &mut Step<'_>,
    ticket: &mut Ticket,
    job: &mut Job,
    how: EndedHow,
) -> StoreResult<()> {
    // The number is taken from the job's stream, but only this submission's watchers see the event.
    job.last_seq += 1;
    let ended = Ended { how, at: step.now, seq: job.last_seq };
    step.conn
        .prepare_cached("UPDATE submissions SET ended = ?2, ended_at = ?3, ended_seq = ?4 WHERE id = ?1")?
        .execute(params![ticket.id.as_str(), how.as_str(), ended.at.as_millis(), signed(ended.seq)])?;
    ticket.ended = Some(ended);
    step.touched(&job.id);
    let wanted = job::exists(
        step.conn,
        "SELECT 1 FROM submissions WHERE job_id = ?1 AND ended IS NULL",
        [job.id.as_str()],
    )?;
    if !wanted {
        match how {
            EndedHow::Cancelled if job.state == JobState::Running => job.cancel_requested = true,
            EndedHow::Cancelled => transitions::end(step, job, End::Cancelled)?,
            EndedHow::Expired => transitions::end(step, job, End::Failed(missed_deadline()))?,
        }
    }
    job::save(step.conn, job)
}
