//! Caps of tenants that no submission lifts, and what tenants take up.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::caps::{AtCap, TenantUse};
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;

use super::error::StoreResult;
use super::job::{signed, unsigned};
use super::tenants;
use super::writer::Step;

/// Does what [`verbatim_core::ports::JobAdmin::set_caps`] says.
pub(super) fn set(step: &mut Step<'_>, caps: &[(TenantId, TenantCaps)]) -> StoreResult<AtCap> {
    let mut at_cap = AtCap::default();
    for (tenant, caps) in caps {
        keep(step.conn, tenant, *caps)?;
        if tenants::put_in_force(step.conn, tenant, *caps)? {
            step.work_arrived();
        }
        let TenantUse { running, waiting, .. } = tenants::takes_up(step.conn, tenant)?;
        at_cap.running += u64::from(caps.max_running.is_some_and(|most| running >= most));
        at_cap.queued += u64::from(caps.max_queued.is_some_and(|most| waiting >= most));
    }
    Ok(at_cap)
}

fn keep(conn: &Connection, tenant: &TenantId, caps: TenantCaps) -> StoreResult<()> {
    if set_for(conn, tenant)? == caps {
        return Ok(());
    }
    let TenantCaps { max_running, max_queued } = caps;
    if caps == TenantCaps::default() {
        conn.prepare_cached("DELETE FROM caps WHERE tenant = ?1")?.execute([tenant.as_str()])?;
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT OR REPLACE INTO caps (tenant, max_running, max_waiting) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![tenant.as_str(), max_running.map(signed), max_queued.map(signed)])?;
    Ok(())
}

/// Those that were set for the tenant; none where none were.
fn set_for(conn: &Connection, tenant: &TenantId) -> StoreResult<TenantCaps> {
    let found = conn
        .prepare_cached("SELECT max_running, max_waiting FROM caps WHERE tenant = ?1")?
        .query_row([tenant.as_str()], |row| {
            let (running, waiting): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(TenantCaps { max_running: running.map(unsigned), max_queued: waiting.map(unsigned) })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Those under which a submission with these caps is taken in.
pub(super) fn of_submission(
    conn: &Connection,
    tenant: &TenantId,
    brought: TenantCaps,
) -> StoreResult<TenantCaps> {
    Ok(set_for(conn, tenant)?.strictest(brought))
}
