//! The books: totals by day, the charges of single jobs, and money that is put aside. `lua/ledger.lua` says how.

use std::collections::BTreeMap;

use async_trait::async_trait;
use redis::ScriptInvocation;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::ledger::{Charge, Day, DayTotal, EntryId, Reservation, Reserved};
use verbatim_core::{ErrorKind, PortError};

use super::error::corrupt;
use super::{RedisStore, millis, scripts};
use crate::charges_kept;

/// The most that one number may be: scripts count exactly up to there.
const MOST: u64 = 9_000_000_000_000_000;
/// Days that one call looks up: a page of one tenant's and provider's day is short, that of a thousand is not.
const DAYS_PER_CALL: usize = 16;

#[async_trait]
impl Ledger for RedisStore {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, PortError> {
        let Reservation { entry, tenant, cost, budgets, ttl } = reservation;
        let budget = |budget: Option<Money>| budget.map(micros).unwrap_or_default();
        let mut call = self.0.wire.call(&scripts::RESERVE);
        name(&mut call, &entry)?;
        call.arg(tenant.as_str())
            .arg(micros(cost))
            .arg(budget(budgets.provider))
            .arg(budget(budgets.tenant))
            .arg(millis(ttl))
            .arg(charges_kept(&self.0.policy));
        let answer: u8 = self.0.wire.link.run(&call).await?;
        match answer {
            0 => Ok(Reserved::Granted),
            1 => Ok(Reserved::OverProviderBudget),
            2 => Ok(Reserved::OverTenantBudget),
            other => Err(corrupt(format!("answer `{other}` to a reservation"))),
        }
    }

    async fn cancel(&self, entry: &EntryId) -> Result<(), PortError> {
        let mut call = self.0.wire.call(&scripts::UNRESERVE);
        name(&mut call, entry)?;
        let _: u8 = self.0.wire.link.run(&call).await?;
        Ok(())
    }

    async fn charge(&self, charge: Charge) -> Result<(), PortError> {
        let Charge { entry, tenant, billed_ms, cost } = charge;
        let mut call = self.0.wire.call(&scripts::CHARGE);
        name(&mut call, &entry)?;
        call.arg(tenant.as_str())
            .arg(billed_ms.min(MOST))
            .arg(cost.map(micros).unwrap_or_default())
            .arg(charges_kept(&self.0.policy));
        let _: u8 = self.0.wire.link.run(&call).await?;
        Ok(())
    }

    async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        let mut totals = Vec::new();
        let mut from = from.number().to_string();
        while !from.is_empty() {
            let mut call = self.0.wire.call(&scripts::TOTALS);
            call.arg(&from).arg(to.number()).arg(DAYS_PER_CALL);
            let (next, days): (String, Vec<(i64, BTreeMap<String, String>)>) =
                self.0.wire.link.run(&call).await?;
            for (day, rows) in &days {
                for (whose, sums) in rows {
                    totals.push(day_total(Day::from_number(*day), whose, sums)?);
                }
            }
            from = next;
        }
        totals.sort_by(|a, b| (a.day, &a.provider, &a.tenant).cmp(&(b.day, &b.provider, &b.tenant)));
        Ok(totals)
    }

    async fn of_job(&self, job_id: &JobId) -> Result<Vec<Charge>, PortError> {
        let mut call = self.0.wire.call(&scripts::OF_JOB);
        call.arg(job_id.ulid()).arg(charges_kept(&self.0.policy));
        let lines: Vec<String> = self.0.wire.link.run(&call).await?;
        let mut charges: Vec<Charge> =
            lines.iter().map(|line| charge(job_id, line)).collect::<Result<_, _>>()?;
        charges.sort_by(|a, b| (a.entry.fence, &a.entry.provider).cmp(&(b.entry.fence, &b.entry.provider)));
        Ok(charges)
    }
}

fn micros(money: Money) -> String {
    money.as_micros().min(MOST).to_string()
}

/// Names the entry to a script, which keeps a provider's name within lines.
fn name(call: &mut ScriptInvocation<'_>, entry: &EntryId) -> Result<(), PortError> {
    if entry.provider.contains(char::is_control) {
        return Err(PortError::new(ErrorKind::Internal, "a provider's name holds control characters"));
    }
    call.arg(entry.job_id.ulid()).arg(entry.fence.get()).arg(&entry.provider);
    Ok(())
}

/// A field of a day: `tenant:provider` and `jobs|billed|unpriced|cost`.
fn day_total(day: Day, whose: &str, sums: &str) -> Result<DayTotal, PortError> {
    let broken = || corrupt(format!("`{sums}` of `{whose}` on a day"));
    let (tenant, provider) = whose.split_once(':').ok_or_else(broken)?;
    let sums: Vec<u64> = sums.split('|').map(str::parse).collect::<Result<_, _>>().map_err(|_| broken())?;
    let [jobs, billed_ms, unpriced_ms, cost] = sums[..] else { return Err(broken()) };
    Ok(DayTotal {
        day,
        provider: provider.to_owned(),
        tenant: TenantId::parse(tenant).map_err(corrupt)?,
        jobs,
        billed_ms,
        unpriced_ms,
        cost: Money::from_micros(cost),
    })
}

/// A line of a job: `fence|billed|cost|tenant|provider`.
fn charge(job: &JobId, line: &str) -> Result<Charge, PortError> {
    let broken = || corrupt(format!("the charge `{line}`"));
    let number = |text: &str| text.parse::<u64>().map_err(|_| broken());
    let parts: Vec<&str> = line.splitn(5, '|').collect();
    let [fence, billed, cost, tenant, provider] = parts[..] else { return Err(broken()) };
    Ok(Charge {
        entry: EntryId {
            job_id: job.clone(),
            fence: Fence::new(number(fence)?),
            provider: provider.to_owned(),
        },
        tenant: TenantId::parse(tenant).map_err(corrupt)?,
        billed_ms: number(billed)?,
        cost: if cost.is_empty() { None } else { Some(Money::from_micros(number(cost)?)) },
    })
}
