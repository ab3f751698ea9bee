//! The books: totals by day, the charges of single jobs, and money that is put aside.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use verbatim_core::PortError;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::ledger::{Charge, Day, DayTotal, EntryId, Reservation, Reserved};

use super::SqliteStore;
use super::error::StoreResult;
use super::job::{self, parsed, unsigned};
use super::writer::Step;
use crate::charges_kept;

/// The most that one number may be, so that sums of a thousand of them still fit.
const MOST: u64 = 9_000_000_000_000_000;
/// How long totals are kept.
pub(super) const KEPT_DAYS: u32 = 400;

#[async_trait]
impl Ledger for SqliteStore {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, PortError> {
        self.writer.call(move |step| reserve(step, &reservation)).await
    }

    async fn cancel(&self, entry: &EntryId) -> Result<(), PortError> {
        let entry = entry.clone();
        self.writer.call(move |step| give_back(step.conn, &entry)).await
    }

    async fn charge(&self, charge: Charge) -> Result<(), PortError> {
        self.writer.call(move |step| write_down(step, &charge)).await
    }

    async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        let from = from.max(Day::of(self.clock.now()).earlier(KEPT_DAYS));
        self.readers.run(move |conn| totals(conn, from, to)).await
    }

    async fn of_job(&self, job_id: &JobId) -> Result<Vec<Charge>, PortError> {
        let job_id = job_id.clone();
        self.readers.run(move |conn| of_job(conn, &job_id)).await
    }
}

fn number(amount: u64) -> i64 {
    job::signed(amount.min(MOST))
}

fn micros(money: Money) -> i64 {
    number(money.as_micros())
}

fn reserve(step: &mut Step<'_>, new: &Reservation) -> StoreResult<Reserved> {
    let Reservation { entry, tenant, cost, budgets, ttl } = new;
    if is_charged(step, entry)? {
        return Ok(Reserved::Granted);
    }
    give_back(step.conn, entry)?;
    give_back_older(step.conn, entry)?;
    step.conn
        .prepare_cached("DELETE FROM ledger_reservations WHERE lapses_at <= ?1")?
        .execute([step.now.as_millis()])?;
    let (cost, today) = (micros(*cost), Day::of(step.now).number());
    let exceeds = |budget: Option<Money>, taken: &str, name: &str| -> StoreResult<bool> {
        let Some(budget) = budget else { return Ok(false) };
        let taken: i64 =
            step.conn.prepare_cached(taken)?.query_row(params![today, name], |row| row.get(0))?;
        Ok(taken.saturating_add(cost) > micros(budget))
    };
    let of_provider =
        "SELECT (SELECT coalesce(sum(cost), 0) FROM ledger_days WHERE day = ?1 AND provider = ?2)
         + (SELECT coalesce(sum(cost), 0) FROM ledger_reservations WHERE provider = ?2)";
    if exceeds(budgets.provider, of_provider, &entry.provider)? {
        return Ok(Reserved::OverProviderBudget);
    }
    let of_tenant = "SELECT (SELECT coalesce(sum(cost), 0) FROM ledger_days WHERE day = ?1 AND tenant = ?2)
         + (SELECT coalesce(sum(cost), 0) FROM ledger_reservations WHERE tenant = ?2)";
    if exceeds(budgets.tenant, of_tenant, tenant.as_str())? {
        return Ok(Reserved::OverTenantBudget);
    }
    step.conn
        .prepare_cached(
            "INSERT INTO ledger_reservations (job_id, fence, provider, tenant, cost, lapses_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            entry.job_id.as_str(),
            job::signed(entry.fence.get()),
            entry.provider,
            tenant.as_str(),
            cost,
            step.now.plus(*ttl).as_millis(),
        ])?;
    Ok(Reserved::Granted)
}

/// What is put aside for this entry.
fn give_back(conn: &Connection, entry: &EntryId) -> StoreResult<()> {
    conn.prepare_cached(
        "DELETE FROM ledger_reservations WHERE job_id = ?1 AND fence = ?2 AND provider = ?3",
    )?
    .execute(params![entry.job_id.as_str(), job::signed(entry.fence.get()), entry.provider])?;
    Ok(())
}

/// What leases before this one put aside for the job.
fn give_back_older(conn: &Connection, entry: &EntryId) -> StoreResult<()> {
    conn.prepare_cached("DELETE FROM ledger_reservations WHERE job_id = ?1 AND fence < ?2")?
        .execute(params![entry.job_id.as_str(), job::signed(entry.fence.get())])?;
    Ok(())
}

fn is_charged(step: &Step<'_>, entry: &EntryId) -> StoreResult<bool> {
    job::exists(
        step.conn,
        "SELECT 1 FROM ledger_charges WHERE job_id = ?1 AND fence = ?2 AND provider = ?3",
        params![entry.job_id.as_str(), job::signed(entry.fence.get()), entry.provider],
    )
}

fn write_down(step: &mut Step<'_>, charge: &Charge) -> StoreResult<()> {
    let Charge { entry, tenant, billed_ms, cost } = charge;
    give_back(step.conn, entry)?;
    give_back_older(step.conn, entry)?;
    if is_charged(step, entry)? {
        return Ok(());
    }
    let today = Day::of(step.now).number();
    let (billed, cost) = (number(*billed_ms), cost.map(micros));
    step.conn
        .prepare_cached(
            "INSERT INTO ledger_charges (job_id, fence, provider, tenant, billed_ms, cost, day)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            entry.job_id.as_str(),
            job::signed(entry.fence.get()),
            entry.provider,
            tenant.as_str(),
            billed,
            cost,
            today
        ])?;
    let unpriced = if cost.is_none() { billed } else { 0 };
    step.conn
        .prepare_cached(
            "INSERT INTO ledger_days (day, provider, tenant, jobs, billed_ms, unpriced_ms, cost)
             VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET jobs = jobs + 1,
                 billed_ms = min(?7, billed_ms + excluded.billed_ms),
                 unpriced_ms = min(?7, unpriced_ms + excluded.unpriced_ms),
                 cost = min(?7, cost + excluded.cost)",
        )?
        .execute(params![
            today,
            entry.provider,
            tenant.as_str(),
            billed,
            unpriced,
            cost.unwrap_or(0),
            number(MOST)
        ])?;
    Ok(())
}

pub(super) fn totals(conn: &Connection, from: Day, to: Day) -> StoreResult<Vec<DayTotal>> {
    let mut statement = conn.prepare_cached(
        "SELECT * FROM ledger_days WHERE day BETWEEN ?1 AND ?2 ORDER BY day, provider, tenant",
    )?;
    let rows = statement.query_map(params![from.number(), to.number()], |row| Ok(day_total(row)))?;
    rows.collect::<Result<Vec<_>, _>>()?.into_iter().collect()
}

fn day_total(row: &Row<'_>) -> StoreResult<DayTotal> {
    Ok(DayTotal {
        day: Day::from_number(row.get("day")?),
        provider: row.get("provider")?,
        tenant: parsed(TenantId::parse(&row.get::<_, String>("tenant")?))?,
        jobs: unsigned(row.get("jobs")?),
        billed_ms: unsigned(row.get("billed_ms")?),
        unpriced_ms: unsigned(row.get("unpriced_ms")?),
        cost: Money::from_micros(unsigned(row.get("cost")?)),
    })
}

pub(super) fn of_job(conn: &Connection, job_id: &JobId) -> StoreResult<Vec<Charge>> {
    let mut statement =
        conn.prepare_cached("SELECT * FROM ledger_charges WHERE job_id = ?1 ORDER BY fence, provider")?;
    let rows = statement.query_map([job_id.as_str()], |row| Ok(charge(row, job_id)))?;
    rows.collect::<Result<Vec<_>, _>>()?.into_iter().collect()
}

fn charge(row: &Row<'_>, job_id: &JobId) -> StoreResult<Charge> {
    Ok(Charge {
        entry: EntryId {
            job_id: job_id.clone(),
            fence: Fence::new(unsigned(row.get("fence")?)),
            provider: row.get("provider")?,
        },
        tenant: parsed(TenantId::parse(&row.get::<_, String>("tenant")?))?,
        billed_ms: unsigned(row.get("billed_ms")?),
        cost: row.get::<_, Option<i64>>("cost")?.map(unsigned).map(Money::from_micros),
    })
}

/// Forgets at most so many rows that are kept no longer.
pub(super) fn forget_old(step: &Step<'_>, most: i64) -> StoreResult<()> {
    let today = Day::of(step.now);
    step.conn
        .prepare_cached(
            "DELETE FROM ledger_charges WHERE (job_id, fence, provider) IN (
                 SELECT job_id, fence, provider FROM ledger_charges WHERE day < ?1 ORDER BY day LIMIT ?2)",
        )?
        .execute(params![today.earlier(charges_kept(step.policy)).number(), most])?;
    step.conn
        .prepare_cached(
            "DELETE FROM ledger_days WHERE (day, provider, tenant) IN (
                 SELECT day, provider, tenant FROM ledger_days WHERE day < ?1 ORDER BY day LIMIT ?2)",
        )?
        .execute(params![today.earlier(KEPT_DAYS).number(), most])?;
    Ok(())
}
