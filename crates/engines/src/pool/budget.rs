//! The cost of jobs: reserved before a call where there is a budget, charged after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use verbatim_core::costs::Sum;
use verbatim_core::money::Money;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::engine::EngineJob;
use verbatim_core::ports::ledger::{Budgets, Charge, Day, EntryId, Reservation, Reserved};
use verbatim_telemetry::metrics::Metrics;

use super::checkpoint::Bill;
use super::lease::Refusal;
use super::provider::{PoolConfig, PoolPorts, Provider};
use super::slot::BackgroundTasks;

/// The time for which a budget that was found spent is not asked again for jobs that cost as much.
const REMEMBERED: Duration = Duration::from_secs(10);
/// The time after which a ledger that did not answer is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);
/// The time that a reservation lasts beyond the longest call, so that a late charge still finds it.
const RESERVATION_MARGIN: Duration = Duration::from_secs(60);
const CHARGE_TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The time after which a spent budget is asked again, unless the day ends sooner.
const BUDGET_AGAIN: Duration = Duration::from_secs(600);
/// The time that a job waits for its own charge, which then goes on in the background.
const CHARGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The budgets that were found spent: by provider or tenant, until when that is believed, and from which cost on.
type Spent = HashMap<String, (Instant, Money)>;

pub(super) struct BudgetGuard {
    ports: PoolPorts,
    background: BackgroundTasks,
    tenant_budget: Option<Money>,
    spent: Mutex<Spent>,
}

/// A part of a budget that is reserved for one call; cancelled when dropped.
pub(super) struct BudgetReservation {
    ledger: Arc<dyn Ledger>,
    background: BackgroundTasks,
    entry: Option<EntryId>,
}

impl BudgetReservation {
    /// Leaves the reservation to the charge that ends it, or to its expiry.
    fn keep(mut self) {
        self.entry = None;
    }

    /// Cancels the reservation, in the background when the caller does not wait.
    pub(super) async fn release(mut self) {
        if let Some(done) = self.cancel() {
            // It ends in a warning at worst.
            let _ = done.await;
        }
    }

    fn cancel(&mut self) -> Option<JoinHandle<()>> {
        let entry = self.entry.take()?;
        let ledger = Arc::clone(&self.ledger);
        Some(self.background.spawn(async move {
            if let Err(error) = ledger.cancel(&entry).await {
                tracing::warn!(provider = entry.provider, %error, "a reservation could not be released; it will expire");
            }
        }))
    }
}

impl Drop for BudgetReservation {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl BudgetGuard {
    pub(super) fn new(ports: PoolPorts, config: &PoolConfig, background: BackgroundTasks) -> Self {
        Self { ports, background, tenant_budget: config.tenant_daily_budget, spent: Mutex::default() }
    }

    /// The refusal of a budget that was found spent a moment ago, so that no slot is acquired in vain.
    pub(super) fn known_spent(
        &self,
        provider: &Provider,
        job: Option<&EngineJob>,
        audio: Duration,
    ) -> Option<Refusal> {
        let (job, cost) = (job?, provider.cost(audio)?);
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |key: &str| {
            spent.get(key).is_some_and(|(until, least)| Instant::now() < *until && cost >= *least)
        };
        let over = known(&of_provider(provider)) || known(&of_tenant(job));
        over.then(|| self.over_budget())
    }

    /// Reserves the cost of the job where there is a budget: nothing when there is none, or no price to count with.
    /// A ledger that does not answer refuses, since a budget is a promise.
    pub(super) async fn reserve(
        &self,
        provider: &Provider,
        job: Option<&EngineJob>,
        audio: Duration,
    ) -> Result<Option<BudgetReservation>, Refusal> {
        let budgets = Budgets { provider: provider.daily_budget, tenant: self.tenant_budget };
        let (Some(ledger), Some(job), Some(cost)) = (&self.ports.ledger, job, provider.cost(audio)) else {
            return Ok(None);
        };
        if budgets == Budgets::default() || cost == Money::ZERO {
            return Ok(None);
        }
        let entry = entry(provider, job);
        // Made before the ledger is asked: this future may be dropped while it answers.
        let guard = BudgetReservation {
            ledger: Arc::clone(ledger),
            background: self.background.clone(),
            entry: Some(entry.clone()),
        };
        let ttl = provider.timeout(audio).saturating_add(RESERVATION_MARGIN);
        let request = Reservation { entry, tenant: job.tenant.clone(), cost, budgets, ttl };
        let spent = match ledger.reserve(request).await {
            Ok(Reserved::Granted) => return Ok(Some(guard)),
            Ok(Reserved::OverProviderBudget) => of_provider(provider),
            Ok(Reserved::OverTenantBudget) => of_tenant(job),
            Err(error) => {
                tracing::warn!(provider = provider.name, %error, "the ledger does not answer; nothing is spent against a budget");
                return Err(Refusal::Down(LEDGER_AGAIN));
            }
        };
        guard.keep();
        let now = Instant::now();
        let mut known = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (until, _)| now < *until);
        known.insert(spent, (now + REMEMBERED, cost));
        drop(known);
        Err(self.over_budget())
    }

    /// Charges for the work that was done. This goes on in the background when the job is given up: the provider has done the work.
    pub(super) async fn charge(
        &self,
        provider: &Provider,
        job: Option<&EngineJob>,
        audio: Duration,
        reservation: Option<BudgetReservation>,
    ) {
        let cost = provider.cost(audio);
        count(&self.ports.metrics, &provider.name, audio, cost);
        if let Some(reservation) = reservation {
            reservation.keep();
        }
        let (Some(ledger), Some(job)) = (self.ports.ledger.clone(), job) else { return };
        let billed_ms = u64::try_from(audio.as_millis()).unwrap_or(u64::MAX);
        let charge = Charge { entry: entry(provider, job), tenant: job.tenant.clone(), billed_ms, cost };
        let charged = self.background.spawn(charge_with_retries(ledger, charge));
        // Longer than this, the ledger is away: the job need not wait for it.
        let _ = tokio::time::timeout(CHARGE_TIMEOUT, charged).await;
    }

    /// Charges what an earlier lease was billed for, if it ended before it did so itself.
    pub(super) fn charge_earlier_lease(&self, provider: &Provider, job: &EngineJob, bill: Bill) {
        let Some(ledger) = self.ports.ledger.clone() else { return };
        let Bill { fence, billed_ms } = bill;
        if billed_ms == 0 || fence == job.fence {
            return;
        }
        let entry = EntryId { fence, ..entry(provider, job) };
        let cost = provider.cost(Duration::from_millis(billed_ms));
        let charge = Charge { entry, tenant: job.tenant.clone(), billed_ms, cost };
        self.background.spawn(charge_with_retries(ledger, charge));
    }

    /// Sets the gauges to the parts of the budgets that are spent today; leaves them when the ledger does not answer.
    pub(super) async fn refresh_gauges(&self, providers: &[Provider]) {
        let Some(ledger) = &self.ports.ledger else { return };
        if self.tenant_budget.is_none() && providers.iter().all(|provider| provider.daily_budget.is_none()) {
            return;
        }
        let today = Day::of(self.ports.clock.now());
        let Ok(totals) = ledger.totals(today, today).await else { return };
        let metrics = &self.ports.metrics.providers;
        for provider in providers {
            let Some(budget) = provider.daily_budget else { continue };
            let spent: Money =
                totals.iter().filter(|total| total.provider == provider.name).map(|total| total.cost).sum();
            metrics.budget_used.with_label_values(&[provider.name.as_str()]).set(part(spent, budget));
        }
        if let Some(budget) = self.tenant_budget {
            let by_tenant = Sum::by(&totals, |total| total.tenant.as_str());
            let most = by_tenant.values().map(|sum| sum.cost).max().unwrap_or_default();
            metrics.tenant_budget_used.set(part(most, budget));
        }
    }

    fn over_budget(&self) -> Refusal {
        let now = self.ports.clock.now();
        let tomorrow = Day::from_number(Day::of(now).number() + 1).start();
        // Reservations may be released long before the day ends.
        Refusal::OverBudget(tomorrow.since(now).min(BUDGET_AGAIN))
    }
}

/// The part of a budget that is spent; a budget of nothing is.
fn part(spent: Money, budget: Money) -> f64 {
    if budget == Money::ZERO { 1.0 } else { spent.as_f64() / budget.as_f64() }
}

/// Charges, with retries: a charge that is repeated counts once.
async fn charge_with_retries(ledger: Arc<dyn Ledger>, charge: Charge) {
    let mut wait = FIRST_WAIT;
    for left in (0..CHARGE_TRIES).rev() {
        match ledger.charge(charge.clone()).await {
            Ok(()) => return,
            Err(error) if left == 0 => tracing::error!(
                job.id = %charge.entry.job_id, provider = charge.entry.provider, billed_ms = charge.billed_ms, %error,
                "work could not be charged; it is missing in the costs"
            ),
            Err(error) => {
                tracing::warn!(provider = charge.entry.provider, %error, "work could not be charged; trying again");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
        }
    }
}

fn count(metrics: &Metrics, provider: &str, audio: Duration, cost: Option<Money>) {
    let metrics = &metrics.providers;
    metrics.billed_seconds.with_label_values(&[provider]).inc_by(audio.as_secs_f64());
    if let Some(cost) = cost {
        metrics.cost.with_label_values(&[provider]).inc_by(cost.as_f64());
    }
}

fn entry(provider: &Provider, job: &EngineJob) -> EntryId {
    EntryId { job_id: job.id.clone(), fence: job.fence, provider: provider.name.clone() }
}

fn of_provider(provider: &Provider) -> String {
    format!("provider {}", provider.name)
}

fn of_tenant(job: &EngineJob) -> String {
    format!("tenant {}", job.tenant)
}
