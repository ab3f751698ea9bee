//! Claiming: which job a worker gets, and the lease it gets it under.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::event::Stage;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::job::{JobState, Lease, LeaseToken};
use verbatim_core::options::Priority;
use verbatim_core::ports::jobs::ClaimRequest;

use super::error::{StoreError, StoreResult, readable};
use super::job::{self, Held, Job, parsed};
use super::lanes::Lane;
use super::tenants::Place;
use super::tick::PUT_OFF;
use super::tiers::Shares;
use super::transitions::{self, End};
use super::watch::Signals;
use super::writer::Step;
use super::{checkpoints, lanes, lapses, tenants};
use crate::MOST_TOO_OLD;
use crate::ticket::too_old;

/// How long after its lease a claim can still be repeated.
pub(super) const REPEATABLE: Duration = Duration::from_secs(600);

/// Does what [`verbatim_core::ports::JobLeases::claim`] says.
///
/// An isolated job goes to an idle worker, which then gets nothing beside it. A busy worker to which one would go is reserved
/// instead: it gets nothing until it is idle, and then an isolated job.
pub(super) fn claim(
    step: &mut Step<'_>,
    signals: &Signals,
    request: &ClaimRequest,
) -> StoreResult<Option<Lease>> {
    if let Some(answer) = repeated(step, request)? {
        return Ok(answer);
    }
    let holding = holding(step.conn, request)?;
    if holding.isolated {
        return Ok(None);
    }
    let mut asking = Asking { signals, request, idle: request.idle && !holding.any, reserved: None };
    if let Some(lane) = lanes::reserved_for(step, signals, &request.worker)? {
        let able = request.abilities.include(&lane.class);
        if !asking.idle && able && lanes::is_needed(step, signals, &lane)? {
            lanes::reserve(step, signals, request, &lane)?;
            return Ok(None);
        }
        lanes::let_go(step, request.worker.as_str())?;
        asking.reserved = able.then_some(lane);
    }
    let mut shares = Shares::load(step.conn)?;
    for _ in 0..MOST_TOO_OLD {
        let Some((tier, turn)) = next(step, &shares, &asking)? else { break };
        if turn.lane.isolated && !asking.idle {
            lanes::reserve(step, signals, request, &turn.lane)?;
            break;
        }
        let mut job = match readable(job::load_existing(step.conn, &turn.job))? {
            Ok(job) => job,
            Err(why) => {
                set_aside(step, tier, &turn, &why)?;
                continue;
            }
        };
        if job.ends_at > step.now {
            shares.charge(tier);
            shares.save(step.conn)?;
            let lease = lease(step, job, request)?;
            remember(step, request, &lease.token.job_id)?;
            return Ok(Some(lease));
        }
        // Its time was up before upkeep saw it. Nobody is charged for it.
        transitions::end(step, &mut job, End::Failed(too_old()))?;
        job::save(step.conn, &mut job)?;
    }
    Ok(None)
}

/// Takes a queued job out of its lane that cannot be read, so that it keeps no other from its turn: it is delayed, and upkeep
/// looks at it again.
fn set_aside(step: &Step<'_>, tier: Priority, turn: &Turn, why: &str) -> StoreResult<()> {
    tracing::error!(job.id = turn.job, why, "a queued job cannot be read and is given to nobody");
    let queued = Place { claimable: Some((tier, turn.lane.clone())), waiting: true, running: false };
    let aside = Place { claimable: None, ..queued.clone() };
    tenants::moved(step.conn, &parsed(TenantId::parse(&turn.tenant))?, &queued, &aside)?;
    step.conn
        .prepare_cached("UPDATE jobs SET state = 'delayed', run_at = ?2 WHERE id = ?1")?
        .execute(params![turn.job, step.now.plus(PUT_OFF).as_millis()])?;
    Ok(())
}

/// Who asks.
struct Asking<'r> {
    signals: &'r Signals,
    request: &'r ClaimRequest,
    /// It holds nothing.
    idle: bool,
    /// The lane for which it was reserved until now, if it can still do that.
    reserved: Option<Lane>,
}

/// The answer that this claim got before, if its lease is still held: also one that was taken back while the worker was cut
/// off, for it lives, if nobody has taken the job since. `None` for a new claim.
fn repeated(step: &mut Step<'_>, request: &ClaimRequest) -> StoreResult<Option<Option<Lease>>> {
    let known: Option<String> = step
        .conn
        .prepare_cached("SELECT job FROM claims WHERE worker = ?1 AND nonce = ?2")?
        .query_row([request.worker.as_str(), request.nonce.as_str()], |row| row.get(0))
        .optional()?;
    let Some(known) = known else { return Ok(None) };
    // One that cannot be read is nobody's: upkeep says so when the lease has lapsed.
    let lease = readable(held_still(step, request, &known))?;
    Ok(Some(lease.unwrap_or_else(|why| {
        tracing::error!(
            job.id = known,
            why,
            "a job that is claimed again cannot be read and is given to nobody"
        );
        None
    })))
}

fn held_still(step: &mut Step<'_>, request: &ClaimRequest, known: &str) -> StoreResult<Option<Lease>> {
    let Some(mut job) = job::load(step.conn, known)? else { return Ok(None) };
    let held = job.state == JobState::Running && job.nonce.as_ref() == Some(&request.nonce);
    if !held && !lapses::is_claimed_again(step, &mut job, &request.nonce)? {
        return Ok(None);
    }
    lease_of(step.conn, job).map(Some)
}

/// Keeps the answer for the claim's repetition.
fn remember(step: &Step<'_>, request: &ClaimRequest, job: &JobId) -> StoreResult<()> {
    step.conn
        .prepare_cached(
            "INSERT OR REPLACE INTO claims (worker, nonce, job, expires_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            request.worker.as_str(),
            request.nonce.as_str(),
            job.as_str(),
            step.now.plus(request.lease).plus(REPEATABLE).as_millis(),
        ])?;
    Ok(())
}

struct Holding {
    any: bool,
    isolated: bool,
}

fn holding(conn: &Connection, request: &ClaimRequest) -> StoreResult<Holding> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) > 0, coalesce(max(isolated), 0) FROM jobs WHERE state = 'running' AND worker = ?1",
    )?;
    Ok(statement.query_row([request.worker.as_str()], |row| {
        Ok(Holding { any: row.get(0)?, isolated: row.get(1)? })
    })?)
}

/// A job that is next.
struct Turn {
    job: String,
    tenant: String,
    lane: Lane,
}

/// The job that is next for the worker, and its tier. One that was reserved and is idle now gets what it was reserved for.
fn next(step: &Step<'_>, shares: &Shares, asking: &Asking<'_>) -> StoreResult<Option<(Priority, Turn)>> {
    if let Some(lane) = asking.reserved.as_ref().filter(|_| asking.idle)
        && let Some(found) = next_by_turns(step, shares, std::slice::from_ref(lane))?
    {
        return Ok(Some(found));
    }
    let mut able = Vec::new();
    for lane in lanes::for_worker(step.conn, &asking.request.abilities)? {
        if asking.idle || !lane.isolated || lanes::may_reserve(step, asking.signals, &lane)? {
            able.push(lane);
        }
    }
    next_by_turns(step, shares, &able)
}

fn next_by_turns(step: &Step<'_>, shares: &Shares, lanes: &[Lane]) -> StoreResult<Option<(Priority, Turn)>> {
    let mut candidates = [const { None }; 3];
    for (candidate, tier) in candidates.iter_mut().zip(Priority::ALL) {
        *candidate = next_of_tier(step.conn, tier, lanes)?;
    }
    Ok(shares.choose(candidates))
}

/// The job of a tier that is next: of the tenant with the smallest tag among these lanes the first.
fn next_of_tier(conn: &Connection, tier: Priority, lanes: &[Lane]) -> StoreResult<Option<Turn>> {
    let mut heads = Vec::new();
    for lane in lanes {
        if let Some((tag, tenant)) = lanes::head(conn, tier, lane)? {
            heads.push((tag, tenant, lane));
        }
    }
    let Some((_, next, _)) = heads.iter().min_by_key(|(tag, tenant, _)| (*tag, tenant)) else {
        return Ok(None);
    };
    let mut first: Option<(i64, Turn)> = None;
    for (.., lane) in heads.iter().filter(|(_, tenant, _)| tenant == next) {
        if let Some((position, job)) = lanes::first(conn, tier, next, lane)?
            && first.as_ref().is_none_or(|(before, _)| position < *before)
        {
            first = Some((position, Turn { job, tenant: next.clone(), lane: (*lane).clone() }));
        }
    }
    Ok(first.map(|(_, turn)| turn))
}

/// Gives the job to the worker and charges its tenant.
fn lease(step: &mut Step<'_>, mut job: Job, request: &ClaimRequest) -> StoreResult<Lease> {
    tenants::charge(step.conn, &mut job)?;
    job.state = JobState::Running;
    job.fence = Fence::new(job.fence.get() + 1);
    job.nonce = Some(request.nonce.clone());
    let ends_at = step.now.plus(request.lease);
    job.lease = Some(Held { worker: request.worker.clone(), ends_at, length: request.lease });
    job.crowded = false;
    job.attempt += 1;
    job.started_at = job.started_at.or(Some(step.now));
    job.progress = 0.0;
    job.stage = Stage::Fetching;
    job.next_segment = 0;
    transitions::append_started(step, &mut job)?;
    job::save(step.conn, &mut job)?;
    lease_of(step.conn, job)
}

fn lease_of(conn: &Connection, job: Job) -> StoreResult<Lease> {
    let (Some(nonce), Some(held)) = (job.nonce, job.lease) else {
        return Err(StoreError::Corrupt(format!("job {} runs without a lease", job.id)));
    };
    Ok(Lease {
        checkpoint: checkpoints::load(conn, job.id.as_str())?,
        token: LeaseToken { job_id: job.id, fence: job.fence, nonce },
        expires_at: held.ends_at,
        attempt: job.attempt,
        tenant: job.tenant,
        options: job.options,
        audio: job.audio,
        blob: job.blob,
        submitted_at: job.created_at,
        alone: job.isolated,
        trace: job.trace,
    })
}
