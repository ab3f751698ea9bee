//! How tenants share a tier: start-time fair queueing (Goyal, Vin and Cheng, 1996), charged in seconds of audio; and how
//! much of the service each takes up.
//!
//! A tenant is active in a tier while it has jobs there that can be claimed and is below its cap of running jobs. Its tag
//! is its start tag while it is active and its finish tag while it is not, so a claim, a settlement or a refund moves one
//! number. The tier's virtual time is the greatest start tag of a job that was served.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::caps::TenantUse;
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;

use super::counters::{read, write};
use super::error::StoreResult;
use super::job::{Charge, Job, signed, tier_number, unsigned};
use super::lanes::{self, Lane};
use super::submission;

/// Where a job counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// It can be claimed, in this lane of this tier.
    pub(super) claimable: Option<(Priority, Lane)>,
    /// It is queued or delayed.
    pub(super) waiting: bool,
    /// A worker holds it.
    pub(super) running: bool,
}

/// What a tenant takes up, and may.
#[derive(Debug, Default)]
struct Tenant {
    running: i64,
    waiting: i64,
    max_running: Option<i64>,
    max_waiting: Option<i64>,
}

impl Tenant {
    fn load(conn: &Connection, tenant: &TenantId) -> StoreResult<Self> {
        let found = conn
            .prepare_cached(
                "SELECT running, waiting, max_running, max_waiting FROM tenants WHERE tenant = ?1",
            )?
            .query_row([tenant.as_str()], |row| {
                Ok(Self {
                    running: row.get(0)?,
                    waiting: row.get(1)?,
                    max_running: row.get(2)?,
                    max_waiting: row.get(3)?,
                })
            })
            .optional()?;
        Ok(found.unwrap_or_default())
    }

    fn save(&self, conn: &Connection, tenant: &TenantId) -> StoreResult<()> {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO tenants (tenant, running, waiting, max_running, max_waiting)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            tenant.as_str(),
            self.running,
            self.waiting,
            self.max_running,
            self.max_waiting
        ])?;
        Ok(())
    }

    fn may_run_more(&self) -> bool {
        self.max_running.is_none_or(|most| self.running < most)
    }
}

/// Where a tenant stands in a tier.
#[derive(Debug, Default)]
struct Share {
    jobs: i64,
    active: bool,
    tag: i64,
}

impl Share {
    fn load(conn: &Connection, tier: Priority, tenant: &TenantId) -> StoreResult<Self> {
        let found = conn
            .prepare_cached("SELECT jobs, active, tag FROM shares WHERE tier = ?1 AND tenant = ?2")?
            .query_row(params![tier_number(tier), tenant.as_str()], |row| {
                Ok(Self { jobs: row.get(0)?, active: row.get(1)?, tag: row.get(2)? })
            })
            .optional()?;
        Ok(found.unwrap_or_default())
    }

    fn save(&self, conn: &Connection, tier: Priority, tenant: &TenantId) -> StoreResult<()> {
        let tier = tier_number(tier);
        conn.prepare_cached(
            "INSERT OR REPLACE INTO shares (tier, tenant, jobs, active, tag) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![tier, tenant.as_str(), self.jobs, self.active, self.tag])?;
        // Where a worker finds whose turn it is in a lane.
        conn.prepare_cached("UPDATE queues SET active = ?3, tag = ?4 WHERE tier = ?1 AND tenant = ?2")?
            .execute(params![tier, tenant.as_str(), self.active, self.tag])?;
        Ok(())
    }

    /// Takes up `jobs` more that can be claimed, and begins or ends to be active.
    fn changed(
        &mut self,
        conn: &Connection,
        tier: Priority,
        jobs: i64,
        may_run_more: bool,
    ) -> StoreResult<()> {
        self.jobs += jobs;
        let active = self.jobs > 0 && may_run_more;
        if active && !self.active {
            self.tag = self.tag.max(virtual_time(conn, tier)?);
        }
        self.active = active;
        Ok(())
    }
}

fn clock(tier: Priority) -> &'static str {
    match tier {
        Priority::Low => "virtual_low",
        Priority::Normal => "virtual_normal",
        Priority::High => "virtual_high",
    }
}

fn virtual_time(conn: &Connection, tier: Priority) -> StoreResult<i64> {
    read(conn, clock(tier))
}

/// A job of the tenant counts elsewhere now.
pub(super) fn moved(conn: &Connection, tenant: &TenantId, from: &Place, to: &Place) -> StoreResult<()> {
    if from == to {
        return Ok(());
    }
    let mut whose = Tenant::load(conn, tenant)?;
    let could_run_more = whose.may_run_more();
    whose.running += i64::from(to.running) - i64::from(from.running);
    whose.waiting += i64::from(to.waiting) - i64::from(from.waiting);
    whose.save(conn, tenant)?;
    let may_run_more = whose.may_run_more();
    let stays = from.claimable == to.claimable;
    for (place, jobs) in [(from, -1), (to, 1)] {
        if let Some((tier, lane)) = place.claimable.as_ref().filter(|_| !stays) {
            lanes::changed(conn, *tier, tenant, lane, jobs)?;
        }
    }
    for tier in Priority::ALL {
        let here = |place: &Place| place.claimable.as_ref().is_some_and(|(other, _)| *other == tier);
        let jobs = i64::from(here(to)) - i64::from(here(from));
        if !stays && (here(from) || here(to)) || may_run_more != could_run_more {
            let mut share = Share::load(conn, tier, tenant)?;
            share.changed(conn, tier, jobs, may_run_more)?;
            share.save(conn, tier, tenant)?;
        }
    }
    Ok(())
}

/// These caps are in force for the tenant now. Answers whether more of its jobs may run than before.
pub(super) fn put_in_force(conn: &Connection, tenant: &TenantId, caps: TenantCaps) -> StoreResult<bool> {
    let TenantCaps { max_running, max_queued } = caps;
    let (max_running, max_waiting) = (max_running.map(signed), max_queued.map(signed));
    let mut whose = Tenant::load(conn, tenant)?;
    if (whose.max_running, whose.max_waiting) == (max_running, max_waiting) {
        return Ok(false);
    }
    let could_run_more = whose.may_run_more();
    (whose.max_running, whose.max_waiting) = (max_running, max_waiting);
    whose.save(conn, tenant)?;
    for tier in Priority::ALL {
        let mut share = Share::load(conn, tier, tenant)?;
        share.changed(conn, tier, 0, whose.may_run_more())?;
        share.save(conn, tier, tenant)?;
    }
    Ok(whose.may_run_more() && !could_run_more)
}

/// What the tenant takes up, and the caps in force.
pub(super) fn takes_up(conn: &Connection, tenant: &TenantId) -> StoreResult<TenantUse> {
    let Tenant { running, waiting, max_running, max_waiting } = Tenant::load(conn, tenant)?;
    Ok(TenantUse {
        tenant: tenant.clone(),
        running: unsigned(running),
        waiting: unsigned(waiting),
        submissions: submission::remembered(conn, tenant)?,
        caps: TenantCaps { max_running: max_running.map(unsigned), max_queued: max_waiting.map(unsigned) },
    })
}

/// The tenant pays for a job that is given. Virtual time moves on to the start of the job, and never back: a tenant that no
/// worker could serve for a while has not saved up turns.
pub(super) fn charge(conn: &Connection, job: &mut Job) -> StoreResult<()> {
    let (tier, secs) = (job.tier, job.estimated_secs.max(1));
    let mut share = Share::load(conn, tier, &job.tenant)?;
    let start = share.tag.max(virtual_time(conn, tier)?);
    write(conn, clock(tier), start)?;
    share.tag = start.saturating_add(signed(secs));
    job.charge = Some(Charge { tier, secs });
    share.save(conn, tier, &job.tenant)
}

/// What the last claim cost is known now: `actual` seconds. The tenant pays or gets back the difference.
pub(super) fn settle(conn: &Connection, job: &mut Job, actual: u64) -> StoreResult<()> {
    let Some(Charge { tier, secs }) = job.charge.take() else { return Ok(()) };
    if actual == secs {
        return Ok(());
    }
    let mut share = Share::load(conn, tier, &job.tenant)?;
    let settled = share.tag.saturating_add(signed(actual)).saturating_sub(signed(secs));
    share.tag = settled.max(virtual_time(conn, tier)?);
    share.save(conn, tier, &job.tenant)
}

/// Forgets tags that virtual time has passed, unless a running job may still settle them; and tenants without jobs.
pub(super) fn forget_idle(conn: &Connection, most: i64) -> StoreResult<()> {
    for tier in Priority::ALL {
        conn.prepare_cached(
            "DELETE FROM shares WHERE (tier, tenant) IN (
                 SELECT tier, tenant FROM shares LEFT JOIN tenants USING (tenant)
                 WHERE tier = ?1 AND jobs = 0 AND tag <= ?2 AND coalesce(running, 0) = 0 LIMIT ?3)",
        )?
        .execute(params![tier_number(tier), virtual_time(conn, tier)?, most])?;
    }
    conn.prepare_cached(
        "DELETE FROM tenants WHERE tenant IN (
             SELECT tenant FROM tenants
             WHERE running = 0 AND waiting = 0 AND max_running IS NULL AND max_waiting IS NULL LIMIT ?1)",
    )?
    .execute([most])?;
    Ok(())
}
