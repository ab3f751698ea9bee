//! What becomes of leases that lapsed: one more lease when nobody had kept the store in order, which says that it was away
//! (its process frozen, its clock put forward), and the way back for a worker that was thought dead.

use std::time::Duration;

use verbatim_core::ids::ClaimNonce;
use verbatim_core::job::{JobState, LeaseToken};
use verbatim_core::policy::ISOLATED_AFTER;
use verbatim_core::time::Timestamp;

use super::counters;
use super::error::StoreResult;
use super::job::{self, Held, Job, TakenBack};
use super::writer::Step;
use crate::{AWAY, MOST_GRACES};

/// Notes that upkeep is done now. Answers when the store was last found again after it had been away; and for how long
/// it was, when that is now.
pub(super) fn note_tick(step: &Step<'_>) -> StoreResult<(Timestamp, Option<Duration>)> {
    let now = step.now.as_millis();
    let last = counters::read(step.conn, "last_tick")?;
    counters::write(step.conn, "last_tick", now)?;
    let silence = now - last;
    if last != 0 && silence.unsigned_abs() < millis(AWAY) {
        return Ok((Timestamp::from_millis(counters::read(step.conn, "store_back")?), None));
    }
    counters::write(step.conn, "store_back", now)?;
    // The time of the last tick may lie in the future: the clock was put back.
    let away = u64::try_from(silence).ok().filter(|_| last != 0).map(Duration::from_millis);
    Ok((step.now, away))
}

/// A process begins: that nobody ticked before it says nothing about its own workers.
pub(super) fn forget_ticks(step: &Step<'_>) -> StoreResult<()> {
    counters::write(step.conn, "last_tick", 0)
}

/// Gives the holder of a lapsed lease a whole lease from the moment in which the store came back: until then it could not
/// renew. Answers whether it did.
pub(super) fn is_given_grace(step: &Step<'_>, job: &mut Job, back: Timestamp) -> bool {
    let Some(held) = &mut job.lease else { return false };
    let until_then = back.plus(held.length);
    if step.now >= until_then || job.graces == MOST_GRACES {
        return false;
    }
    held.ends_at = until_then;
    job.graces += 1;
    true
}

/// What had been counted against a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    deaths: u32,
    crashes: u32,
    isolated: bool,
}

impl Counted {
    /// As it is now.
    pub(super) fn of(job: &Job) -> Self {
        Self { deaths: job.deaths, crashes: job.crashes, isolated: job.isolated }
    }
}

/// Remembers a lease that was taken back and what was counted for it beyond `before`.
pub(super) fn note_taken_back(job: &mut Job, held: Held, before: Counted) {
    let (JobState::Queued | JobState::Delayed, Some(nonce)) = (job.state, job.nonce.clone()) else { return };
    job.taken_back.push(TakenBack {
        fence: job.fence,
        nonce,
        worker: held.worker,
        lease_ms: millis(held.length),
        death: job.deaths > before.deaths,
        crash: job.crashes > before.crashes,
        isolating: job.isolated && !before.isolated,
    });
}

/// The job that this lease is on, if it is held: also one that was taken back from a worker that lives, and that nobody
/// has taken since. It is running again then, under the same fence. If another worker has it, all that is done is to
/// uncount the crash.
pub(super) fn held(step: &mut Step<'_>, token: &LeaseToken) -> StoreResult<Option<Job>> {
    let Some(mut job) = job::load(step.conn, token.job_id.as_str())? else { return Ok(None) };
    let is_held = job.is_held_by(token) || is_held_again(step, &mut job, token)?;
    Ok(Some(job).filter(|_| is_held))
}

/// Does what [`held`] says for a job that this token does not hold.
pub(super) fn is_held_again(step: &mut Step<'_>, job: &mut Job, token: &LeaseToken) -> StoreResult<bool> {
    let known = job.taken_back.iter().position(|past| past.fence == token.fence && past.nonce == token.nonce);
    let (Some(known), false) = (known, job.state.is_terminal()) else { return Ok(false) };
    let past = job.taken_back.remove(known);
    uncount(job, &past);
    step.revived();
    let is_last = job.state != JobState::Running && job.fence == token.fence;
    if is_last {
        let length = Duration::from_millis(past.lease_ms);
        job.lease = Some(Held { worker: past.worker, ends_at: step.now.plus(length), length });
        job.state = JobState::Running;
        job.run_at = None;
        job.attempt += 1;
        step.touched(&job.id);
    } else if job.state == JobState::Queued {
        // Others may take it now.
        step.work_arrived();
    }
    job::save(step.conn, job)?;
    Ok(is_last)
}

/// The same for the claim that got the lease, which its worker repeats.
pub(super) fn is_claimed_again(step: &mut Step<'_>, job: &mut Job, nonce: &ClaimNonce) -> StoreResult<bool> {
    let past = job.taken_back.iter().find(|past| past.nonce == *nonce);
    let token =
        past.map(|past| LeaseToken { job_id: job.id.clone(), fence: past.fence, nonce: nonce.clone() });
    token.map_or(Ok(false), |token| is_held_again(step, job, &token))
}

/// Takes back what was counted. The job stops being isolated when the deaths that isolated it turn out to be fewer than it
/// takes.
fn uncount(job: &mut Job, past: &TakenBack) {
    job.crashes = job.crashes.saturating_sub(u32::from(past.crash));
    job.deaths = job.deaths.saturating_sub(u32::from(past.death));
    let isolating = past.isolating || job.taken_back.iter().any(|other| other.isolating);
    if isolating && job.deaths < ISOLATED_AFTER {
        job.isolated = false;
        job.taken_back.iter_mut().for_each(|other| other.isolating = false);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
