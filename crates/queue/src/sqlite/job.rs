//! One row of `jobs`: loading, saving, inserting.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use verbatim_core::audio::AudioInfo;
use verbatim_core::class::JobClass;
use verbatim_core::event::Stage;
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::{ClaimNonce, Fence, JobId, TenantId, WorkerId};
use verbatim_core::job::{JobState, LeaseToken};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::ports::BlobKey;
use verbatim_core::time::Timestamp;
use verbatim_core::trace::TraceParent;

use super::error::{StoreError, StoreResult};
use super::lanes::Lane;
use super::tenants::{self, Place};
use crate::newer;

/// A job as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) tenant: TenantId,
    pub(super) dedupe_key: String,
    pub(super) options: TranscribeOptions,
    pub(super) blob: BlobKey,
    pub(super) created_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) state: JobState,
    pub(super) tier: Priority,
    /// What its worker must be able to do.
    pub(super) class: JobClass,
    pub(super) position: i64,
    pub(super) audio: AudioInfo,
    pub(super) estimated_secs: u64,
    pub(super) queued_at: Timestamp,
    pub(super) run_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
    /// Workers that died while they held it, unless it got further meanwhile.
    pub(super) deaths: u32,
    /// It must run alone.
    pub(super) isolated: bool,
    /// How far its checkpoints came, in milliseconds of audio, and under which fence they moved last.
    pub(super) checkpoint_ms: u64,
    pub(super) checkpoint_fence: Fence,
    pub(super) cancel_requested: bool,
    pub(super) fence: Fence,
    pub(super) nonce: Option<ClaimNonce>,
    pub(super) lease: Option<Held>,
    /// How many leases in a row its holder was given because the store had been away.
    pub(super) graces: u32,
    pub(super) taken_back: Vec<TakenBack>,
    pub(super) crowded: bool,
    pub(super) past_finish: Option<PastFinish>,
    pub(super) engine: String,
    pub(super) model: Option<String>,
    pub(super) progress: f32,
    pub(super) stage: Stage,
    pub(super) next_segment: u32,
    /// The number of the attempt's first segment.
    pub(super) segments_from: Option<u64>,
    pub(super) last_seq: u64,
    pub(super) failure: Option<JobFailure>,
    pub(super) result: Option<BlobKey>,
    pub(super) charge: Option<Charge>,
    pub(super) trace: Option<TraceParent>,
    /// Where it counted when it was loaded or saved last.
    pub(super) counted: Place,
}

/// What the last claim charged to the tenant, until it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) tier: Priority,
    pub(super) secs: u64,
}

/// A lease that is held.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) worker: WorkerId,
    pub(super) ends_at: Timestamp,
    pub(super) length: Duration,
}

/// A lease that was taken back, with what was counted for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TakenBack {
    pub(super) fence: Fence,
    pub(super) nonce: ClaimNonce,
    pub(super) worker: WorkerId,
    pub(super) lease_ms: u64,
    /// Whether it was counted as a death.
    pub(super) death: bool,
    /// Whether it was counted as a crash.
    pub(super) crash: bool,
    /// Whether the job is isolated since.
    pub(super) isolating: bool,
}

/// The length of the lease that a version gave which did not write it down.
const USUAL_LEASE: u64 = 30_000;

/// The calls that end a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FinishCall {
    Complete,
    Fail,
    Release,
}

/// The last finish of a job and what was answered, so that its repetition gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PastFinish {
    pub(super) call: FinishCall,
    pub(super) fence: Fence,
    pub(super) nonce: ClaimNonce,
    pub(super) state: JobState,
}

impl Job {
    /// Whether this token names the lease that is held now.
    pub(super) fn is_held_by(&self, token: &LeaseToken) -> bool {
        self.state == JobState::Running
            && self.fence == token.fence
            && self.nonce.as_ref() == Some(&token.nonce)
    }

    fn place(&self) -> Place {
        let queued = self.state == JobState::Queued;
        Place {
            claimable: queued
                .then(|| (self.tier, Lane { class: self.class.clone(), isolated: self.isolated })),
            waiting: queued || self.state == JobState::Delayed,
            running: self.state == JobState::Running,
        }
    }
}

/// A tier as its number in the database.
pub(super) fn tier_number(tier: Priority) -> i64 {
    match tier {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

/// The tier of a number in the database.
pub(super) fn tier_from(number: i64) -> StoreResult<Priority> {
    Priority::ALL
        .into_iter()
        .find(|tier| tier_number(*tier) == number)
        .ok_or_else(|| StoreError::OtherVersion(format!("tier {number}")))
}

/// A count as SQLite stores it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count as SQLite gave it; none of ours is negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A duration as SQLite stores it.
pub(super) fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A stored text that one of the domain's `parse` functions reads.
pub(super) fn parsed<T, E: std::fmt::Display>(value: Result<T, E>) -> StoreResult<T> {
    value.map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// An optional point in time.
pub(super) fn time(row: &Row<'_>, column: &str) -> StoreResult<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// A point in time.
pub(super) fn time_of(row: &Row<'_>, column: &str) -> StoreResult<Timestamp> {
    Ok(Timestamp::from_millis(row.get(column)?))
}

/// A column that holds JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> StoreResult<T> {
    Ok(serde_json::from_str(
        row.get_ref(column)?.as_str().map_err(|error| StoreError::Corrupt(error.to_string()))?,
    )?)
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> StoreResult<Option<T>> {
    Ok(row.get::<_, Option<String>>(column)?.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn to_json<T: Serialize>(value: &Option<T>) -> StoreResult<Option<String>> {
    Ok(value.as_ref().map(serde_json::to_string).transpose()?)
}

fn blob(text: String) -> StoreResult<BlobKey> {
    parsed(BlobKey::parse(&text))
}

fn from_row(row: &Row<'_>) -> StoreResult<Job> {
    let state: String = row.get("state")?;
    let stage: String = row.get("stage")?;
    let worker: Option<String> = row.get("worker")?;
    let lease = match (worker, time(row, "lease_ends_at")?) {
        (Some(worker), Some(ends_at)) => {
            let length = row.get::<_, Option<i64>>("lease_ms")?.map_or(USUAL_LEASE, unsigned);
            let worker = parsed(WorkerId::parse(&worker))?;
            Some(Held { worker, ends_at, length: Duration::from_millis(length) })
        }
        _ => None,
    };
    let charge = match (row.get("charged_tier")?, row.get("charged_secs")?) {
        (Some(tier), Some(secs)) => Some(Charge { tier: tier_from(tier)?, secs: unsigned(secs) }),
        _ => None,
    };
    let mut job = Job {
        id: parsed(JobId::parse(&row.get::<_, String>("id")?))?,
        tenant: parsed(TenantId::parse(&row.get::<_, String>("tenant")?))?,
        dedupe_key: row.get("dedupe_key")?,
        options: json(row, "options")?,
        blob: blob(row.get("blob")?)?,
        created_at: time_of(row, "created_at")?,
        ends_at: time_of(row, "ends_at")?,
        state: JobState::parse(&state).ok_or_else(|| StoreError::OtherVersion(format!("state `{state}`")))?,
        tier: tier_from(row.get("tier")?)?,
        class: JobClass::from_stored(row.get::<_, String>("class")?),
        position: row.get("position")?,
        audio: json(row, "audio")?,
        estimated_secs: unsigned(row.get("estimated_secs")?),
        queued_at: time_of(row, "queued_at")?,
        run_at: time(row, "run_at")?,
        started_at: time(row, "started_at")?,
        finished_at: time(row, "finished_at")?,
        expires_at: time(row, "expires_at")?,
        attempt: row.get("attempt")?,
        crashes: row.get("crashes")?,
        deaths: row.get("deaths")?,
        isolated: row.get("isolated")?,
        checkpoint_ms: unsigned(row.get("checkpoint_ms")?),
        checkpoint_fence: Fence::new(unsigned(row.get("checkpoint_fence")?)),
        cancel_requested: row.get("cancel_requested")?,
        fence: Fence::new(unsigned(row.get("fence")?)),
        nonce: row.get::<_, Option<String>>("nonce")?.map(ClaimNonce::from_stored),
        lease,
        graces: row.get("graces")?,
        taken_back: optional_json(row, "taken_back")?.unwrap_or_default(),
        crowded: row.get("crowded")?,
        past_finish: optional_json(row, "past_finish")?,
        engine: row.get("engine")?,
        model: row.get("model")?,
        progress: row.get("progress")?,
        stage: newer::stage(&stage),
        next_segment: row.get("next_segment")?,
        segments_from: row.get::<_, Option<i64>>("segments_from")?.map(unsigned),
        last_seq: unsigned(row.get("last_seq")?),
        failure: row.get::<_, Option<String>>("failure")?.as_deref().map(newer::failure),
        result: row.get::<_, Option<String>>("result")?.map(blob).transpose()?,
        charge,
        trace: row.get::<_, Option<String>>("trace")?.map(|text| parsed(text.parse())).transpose()?,
        counted: Place::default(),
    };
    job.counted = job.place();
    Ok(job)
}

/// The job, if there is one.
pub(super) fn load(conn: &Connection, id: &str) -> StoreResult<Option<Job>> {
    let mut statement = conn.prepare_cached("SELECT * FROM jobs WHERE id = ?1")?;
    let job = statement.query_row([id], |row| Ok(from_row(row))).optional()?;
    job.transpose()
}

/// The job that another row refers to.
pub(super) fn load_existing(conn: &Connection, id: &str) -> StoreResult<Job> {
    load(conn, id)?.ok_or_else(|| StoreError::Corrupt(format!("job {id} is missing")))
}

/// The first column of every row: how operations find the jobs they are about.
pub(super) fn ids(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> StoreResult<Vec<String>> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether the query finds a row.
pub(super) fn exists(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> StoreResult<bool> {
    Ok(conn.prepare_cached(sql)?.exists(params)?)
}

/// Notes where the job counts now.
fn count(conn: &Connection, job: &mut Job) -> StoreResult<()> {
    let place = job.place();
    tenants::moved(conn, &job.tenant, &job.counted, &place)?;
    job.counted = place;
    Ok(())
}

/// Adds the job.
pub(super) fn insert(conn: &Connection, job: &mut Job) -> StoreResult<()> {
    conn.prepare_cached(
        "INSERT INTO jobs (id, tenant, dedupe_key, options, blob, created_at, ends_at, state, tier, class, position, audio,
                           estimated_secs, queued_at, engine, stage, last_seq, trace)
         VALUES (:id, :tenant, :dedupe_key, :options, :blob, :created_at, :ends_at, :state, :tier, :class, :position, :audio,
                 :estimated_secs, :queued_at, :engine, :stage, :last_seq, :trace)",
    )?
    .execute(named_params! {
        ":id": job.id.as_str(),
        ":tenant": job.tenant.as_str(),
        ":dedupe_key": job.dedupe_key,
        ":options": serde_json::to_string(&job.options)?,
        ":blob": job.blob.as_str(),
        ":created_at": job.created_at.as_millis(),
        ":ends_at": job.ends_at.as_millis(),
        ":state": job.state.as_str(),
        ":tier": tier_number(job.tier),
        ":class": job.class.as_str(),
        ":position": job.position,
        ":audio": serde_json::to_string(&job.audio)?,
        ":estimated_secs": signed(job.estimated_secs),
        ":queued_at": job.queued_at.as_millis(),
        ":engine": job.engine,
        ":stage": job.stage.as_str(),
        ":last_seq": signed(job.last_seq),
        ":trace": job.trace.map(String::from),
    })?;
    count(conn, job)
}

/// Writes what moves.
pub(super) fn save(conn: &Connection, job: &mut Job) -> StoreResult<()> {
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    conn.prepare_cached(
        "UPDATE jobs SET state = :state, tier = :tier, class = :class, position = :position, audio = :audio,
                estimated_secs = :estimated_secs, queued_at = :queued_at, run_at = :run_at, started_at = :started_at,
                finished_at = :finished_at, expires_at = :expires_at, attempt = :attempt, crashes = :crashes,
                deaths = :deaths, isolated = :isolated, checkpoint_ms = :checkpoint_ms,
                checkpoint_fence = :checkpoint_fence, cancel_requested = :cancel_requested, fence = :fence, nonce = :nonce,
                worker = :worker, lease_ends_at = :lease_ends_at, crowded = :crowded, past_finish = :past_finish,
                engine = :engine, model = :model, progress = :progress, stage = :stage, next_segment = :next_segment,
                last_seq = :last_seq, failure = :failure, result = :result, ends_at = :ends_at,
                charged_tier = :charged_tier, charged_secs = :charged_secs, lease_ms = :lease_ms,
                graces = :graces, taken_back = :taken_back, segments_from = :segments_from
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":id": job.id.as_str(),
        ":state": job.state.as_str(),
        ":tier": tier_number(job.tier),
        ":class": job.class.as_str(),
        ":position": job.position,
        ":audio": serde_json::to_string(&job.audio)?,
        ":estimated_secs": signed(job.estimated_secs),
        ":queued_at": job.queued_at.as_millis(),
        ":run_at": millis(job.run_at),
        ":started_at": millis(job.started_at),
        ":finished_at": millis(job.finished_at),
        ":expires_at": millis(job.expires_at),
        ":attempt": job.attempt,
        ":crashes": job.crashes,
        ":deaths": job.deaths,
        ":isolated": job.isolated,
        ":checkpoint_ms": signed(job.checkpoint_ms),
        ":checkpoint_fence": signed(job.checkpoint_fence.get()),
        ":cancel_requested": job.cancel_requested,
        ":fence": signed(job.fence.get()),
        ":nonce": job.nonce.as_ref().map(ClaimNonce::as_str),
        ":worker": job.lease.as_ref().map(|lease| lease.worker.as_str()),
        ":lease_ends_at": job.lease.as_ref().map(|lease| lease.ends_at.as_millis()),
        ":crowded": job.crowded,
        ":past_finish": to_json(&job.past_finish)?,
        ":engine": job.engine,
        ":model": job.model,
        ":progress": job.progress,
        ":stage": job.stage.as_str(),
        ":next_segment": job.next_segment,
        ":last_seq": signed(job.last_seq),
        ":failure": to_json(&job.failure)?,
        ":result": job.result.as_ref().map(BlobKey::as_str),
        ":ends_at": job.ends_at.as_millis(),
        ":charged_tier": job.charge.map(|charge| tier_number(charge.tier)),
        ":charged_secs": job.charge.map(|charge| signed(charge.secs)),
        ":lease_ms": job.lease.as_ref().map(|lease| millis_of(lease.length)),
        ":graces": job.graces,
        ":segments_from": job.segments_from.map(signed),
        ":taken_back": to_json(&Some(&job.taken_back).filter(|leases| !leases.is_empty()))?,
    })?;
    count(conn, job)
}
