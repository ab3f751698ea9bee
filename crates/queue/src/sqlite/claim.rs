//! Claiming: which jobs a worker gets, and the leases it gets them under.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::event::Stage;
use verbatim_core::ids::{Fence, JobId};
use verbatim_core::job::{JobState, Lease, LeaseToken};
use verbatim_core::options::Priority;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{ClaimRequest, MAX_JOBS_PER_CALL};

use super::error::{StoreError, StoreResult};
use super::job::{self, Held, Job};
use super::tiers::Shares;
use super::transitions::{self, End};
use super::writer::Step;
use super::{suspects, tenants};
use crate::ticket::too_old;

/// How long after its leases a claim can still be repeated.
const REPEATABLE: Duration = Duration::from_secs(600);

/// Does what [`verbatim_core::ports::JobLeases::claim`] says.
///
/// A job that was there when a worker vanished (a suspect) is given alone, to an idle worker, which then gets nothing
/// else; whatever is given together is not suspect.
pub(super) fn claim(step: &mut Step<'_>, request: &ClaimRequest) -> StoreResult<Vec<Lease>> {
    if let Some(leases) = repeated(step.conn, request)? {
        return Ok(leases);
    }
    let holding = holding(step.conn, request)?;
    if holding.alone || request.max == 0 {
        return Ok(Vec::new());
    }
    let idle = request.idle && !holding.any;
    if idle {
        suspects::let_go(step, &request.worker)?;
    }
    let leases = match suspects::overdue(step)? {
        Some(id) if idle => lease_alone(step, &id, request)?.into_iter().collect(),
        Some(_) if suspects::keeps(step, &request.worker)? => Vec::new(),
        _ => by_turns(step, request, idle)?,
    };
    if !leases.is_empty() {
        remember(step, request, &leases)?;
    }
    Ok(leases)
}

/// The answer that this claim got before: what is still held of it. `None` for a new claim.
fn repeated(conn: &Connection, request: &ClaimRequest) -> StoreResult<Option<Vec<Lease>>> {
    let known: Option<String> = conn
        .prepare_cached("SELECT jobs FROM claims WHERE worker = ?1 AND nonce = ?2")?
        .query_row([request.worker.as_str(), request.nonce.as_str()], |row| row.get(0))
        .optional()?;
    let Some(known) = known else { return Ok(None) };
    let mut leases = Vec::new();
    for id in serde_json::from_str::<Vec<JobId>>(&known)? {
        let job = job::load(conn, id.as_str())?;
        let held = |job: &Job| job.state == JobState::Running && job.nonce.as_ref() == Some(&request.nonce);
        if let Some(job) = job.filter(held) {
            leases.push(lease_of(conn, job)?);
        }
    }
    Ok(Some(leases))
}

/// Keeps the answer for the claim's repetition.
fn remember(step: &Step<'_>, request: &ClaimRequest, leases: &[Lease]) -> StoreResult<()> {
    let jobs: Vec<_> = leases.iter().map(|lease| &lease.token.job_id).collect();
    step.conn
        .prepare_cached(
            "INSERT OR REPLACE INTO claims (worker, nonce, jobs, expires_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            request.worker.as_str(),
            request.nonce.as_str(),
            serde_json::to_string(&jobs)?,
            step.now.plus(request.lease).plus(REPEATABLE).as_millis(),
        ])?;
    Ok(())
}

struct Holding {
    any: bool,
    alone: bool,
}

fn holding(conn: &Connection, request: &ClaimRequest) -> StoreResult<Holding> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) > 0, coalesce(max(suspect), 0) FROM jobs WHERE state = 'running' AND worker = ?1",
    )?;
    Ok(statement
        .query_row([request.worker.as_str()], |row| Ok(Holding { any: row.get(0)?, alone: row.get(1)? }))?)
}

/// What a tier would give next.
enum Candidate {
    InTurn(String),
    Alone(String),
}

/// Gives jobs as tiers and tenants are due; to an idle worker a suspect by itself, if one is in the first tier due.
fn by_turns(step: &mut Step<'_>, request: &ClaimRequest, idle: bool) -> StoreResult<Vec<Lease>> {
    let mut shares = Shares::load(step.conn)?;
    let mut leases = Vec::new();
    let mut served = false;
    for _ in 0..request.max.min(MAX_JOBS_PER_CALL) {
        let candidates = candidates(step, idle && leases.is_empty())?;
        let Some(chosen) = shares.choose(candidates) else { break };
        served = true;
        match chosen {
            Candidate::Alone(id) => {
                leases.extend(lease_alone(step, &id, request)?);
                break;
            }
            Candidate::InTurn(id) => {
                let job = job::load_existing(step.conn, &id)?;
                leases.extend(lease(step, job, request, tenants::charge)?);
            }
        }
    }
    // Also when the job turned out to be too old: its tier has had its turn.
    if served {
        shares.save(step.conn)?;
    }
    Ok(leases)
}

/// What each tier would give, in the order of [`Priority::ALL`].
fn candidates(step: &Step<'_>, with_suspects: bool) -> StoreResult<[Option<Candidate>; 3]> {
    let mut candidates = [const { None }; 3];
    for (candidate, tier) in candidates.iter_mut().zip(Priority::ALL) {
        if with_suspects {
            *candidate = suspects::first(step, tier)?.map(Candidate::Alone);
        }
        if candidate.is_none() {
            *candidate = tenants::next_in_turn(step.conn, tier)?.map(Candidate::InTurn);
        }
    }
    Ok(candidates)
}

fn lease_alone(step: &mut Step<'_>, id: &str, request: &ClaimRequest) -> StoreResult<Option<Lease>> {
    let job = job::load_existing(step.conn, id)?;
    lease(step, job, request, tenants::charge_out_of_turn)
}

/// Gives the job to the worker and charges its tenant, unless the job's time is up: then it ends here.
fn lease(
    step: &mut Step<'_>,
    mut job: Job,
    request: &ClaimRequest,
    charge: fn(&Connection, &mut Job) -> StoreResult<()>,
) -> StoreResult<Option<Lease>> {
    if job.ends_at <= step.now {
        transitions::end(step, &mut job, End::Failed(too_old()))?;
        job::save(step.conn, &mut job)?;
        return Ok(None);
    }
    charge(step.conn, &mut job)?;
    job.state = JobState::Running;
    job.fence = Fence::new(job.fence.get() + 1);
    job.nonce = Some(request.nonce.clone());
    job.lease = Some(Held { worker: request.worker.clone(), ends_at: step.now.plus(request.lease) });
    job.crowded = false;
    job.attempt += 1;
    job.started_at = job.started_at.or(Some(step.now));
    job.progress = 0.0;
    job.stage = Stage::Fetching;
    job.next_segment = 0;
    transitions::append_started(step, &mut job)?;
    job::save(step.conn, &mut job)?;
    lease_of(step.conn, job).map(Some)
}

fn lease_of(conn: &Connection, job: Job) -> StoreResult<Lease> {
    let (Some(nonce), Some(held)) = (job.nonce, job.lease) else {
        return Err(StoreError::Corrupt(format!("job {} runs without a lease", job.id)));
    };
    Ok(Lease {
        checkpoint: checkpoint(conn, job.id.as_str())?,
        token: LeaseToken { job_id: job.id, fence: job.fence, nonce },
        expires_at: held.ends_at,
        attempt: job.attempt,
        tenant: job.tenant,
        options: job.options,
        audio: job.audio,
        blob: job.blob,
        submitted_at: job.created_at,
        alone: job.suspect,
        trace: job.trace,
    })
}

fn checkpoint(conn: &Connection, job: &str) -> StoreResult<Option<Checkpoint>> {
    let body: Option<String> = conn
        .prepare_cached("SELECT body FROM checkpoints WHERE job_id = ?1")?
        .query_row([job], |row| row.get(0))
        .optional()?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}
