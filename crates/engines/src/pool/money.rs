//! What jobs cost: put aside before a call where there is a budget, booked after it.

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
use super::provider::{PoolConfig, PoolPorts, Provider};
use super::seat::Refusal;
use super::slot::Afterwards;

/// For how long a budget that was found spent is not asked again for jobs of that cost.
const REMEMBERED: Duration = Duration::from_secs(10);
/// When a ledger that did not answer is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);
/// Beyond the longest call: whoever is late still finds its money.
const RESERVED_ON: Duration = Duration::from_secs(60);
const CHARGE_TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// When a budget that leaves no room is asked again, unless the day ends sooner.
const BUDGET_AGAIN: Duration = Duration::from_secs(600);
/// How long a job waits for its own booking before it is left to go on alone.
const BOOKING_PATIENCE: Duration = Duration::from_secs(2);

/// What was found spent: by whom, until when that is believed, and for which cost.
type Spent = HashMap<String, (Instant, Money)>;

pub(super) struct Purse {
    ports: PoolPorts,
    afterwards: Afterwards,
    tenant_budget: Option<Money>,
    spent: Mutex<Spent>,
}

/// Money put aside for one call; given back when dropped.
pub(super) struct Booking {
    ledger: Arc<dyn Ledger>,
    afterwards: Afterwards,
    entry: Option<EntryId>,
}

impl Booking {
    /// Leaves the reservation to the charge that ends it, or to its time.
    fn keep(mut self) {
        self.entry = None;
    }

    /// Gives it back; it goes on by itself when nobody waits for it.
    pub(super) async fn give_back(mut self) {
        if let Some(done) = self.cancel() {
            // It ends in a warning at worst.
            let _ = done.await;
        }
    }

    fn cancel(&mut self) -> Option<JoinHandle<()>> {
        let entry = self.entry.take()?;
        let ledger = Arc::clone(&self.ledger);
        Some(self.afterwards.spawn(async move {
            if let Err(error) = ledger.cancel(&entry).await {
                tracing::warn!(provider = entry.provider, %error, "a reservation could not be given back; it will lapse");
            }
        }))
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Purse {
    pub(super) fn new(ports: PoolPorts, config: &PoolConfig, afterwards: Afterwards) -> Self {
        Self { ports, afterwards, tenant_budget: config.tenant_daily_budget, spent: Mutex::default() }
    }

    /// Whether a budget was found spent a moment ago, so that no slot is taken in vain.
    pub(super) fn recall(
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

    /// Puts aside what the job will cost, where there is a budget: nothing when there is none, or no price to count with.
    /// A ledger that does not answer refuses: a budget is a promise.
    pub(super) async fn fund(
        &self,
        provider: &Provider,
        job: Option<&EngineJob>,
        audio: Duration,
    ) -> Result<Option<Booking>, Refusal> {
        let budgets = Budgets { provider: provider.daily_budget, tenant: self.tenant_budget };
        let (Some(ledger), Some(job), Some(cost)) = (&self.ports.ledger, job, provider.cost(audio)) else {
            return Ok(None);
        };
        if budgets == Budgets::default() || cost == Money::ZERO {
            return Ok(None);
        }
        let entry = entry(provider, job);
        // Before the ledger is asked: this future may be dropped while it answers.
        let booking = Booking {
            ledger: Arc::clone(ledger),
            afterwards: self.afterwards.clone(),
            entry: Some(entry.clone()),
        };
        let ttl = provider.timeout(audio).saturating_add(RESERVED_ON);
        let reservation = Reservation { entry, tenant: job.tenant.clone(), cost, budgets, ttl };
        let spent = match ledger.reserve(reservation).await {
            Ok(Reserved::Granted) => return Ok(Some(booking)),
            Ok(Reserved::OverProviderBudget) => of_provider(provider),
            Ok(Reserved::OverTenantBudget) => of_tenant(job),
            Err(error) => {
                tracing::warn!(provider = provider.name, %error, "the ledger does not answer; nothing is spent against a budget");
                return Err(Refusal::Down(LEDGER_AGAIN));
            }
        };
        booking.keep();
        let now = Instant::now();
        let mut known = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (until, _)| now < *until);
        known.insert(spent, (now + REMEMBERED, cost));
        drop(known);
        Err(self.over_budget())
    }

    /// Books what was done. It goes on by itself when the job is given up meanwhile: the provider has done the work.
    pub(super) async fn charge(
        &self,
        provider: &Provider,
        job: Option<&EngineJob>,
        audio: Duration,
        booking: Option<Booking>,
    ) {
        let cost = provider.cost(audio);
        count(&self.ports.metrics, &provider.name, audio, cost);
        if let Some(booking) = booking {
            booking.keep();
        }
        let (Some(ledger), Some(job)) = (self.ports.ledger.clone(), job) else { return };
        let billed_ms = u64::try_from(audio.as_millis()).unwrap_or(u64::MAX);
        let charge = Charge { entry: entry(provider, job), tenant: job.tenant.clone(), billed_ms, cost };
        let booked = self.afterwards.spawn(book(ledger, charge));
        // Longer than this, the ledger is away: the job need not wait for it.
        let _ = tokio::time::timeout(BOOKING_PATIENCE, booked).await;
    }

    /// Books what an earlier lease was billed for, if that was not done before it ended.
    pub(super) fn make_up(&self, provider: &Provider, job: &EngineJob, bill: Bill) {
        let Some(ledger) = self.ports.ledger.clone() else { return };
        let Bill { fence, billed_ms } = bill;
        if billed_ms == 0 || fence == job.fence {
            return;
        }
        let entry = EntryId { fence, ..entry(provider, job) };
        let cost = provider.cost(Duration::from_millis(billed_ms));
        let charge = Charge { entry, tenant: job.tenant.clone(), billed_ms, cost };
        self.afterwards.spawn(book(ledger, charge));
    }

    /// The parts of the budgets that are spent today; nothing when the ledger does not answer.
    pub(super) async fn measure(&self, providers: &[Provider]) {
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
        // What is only put aside may be given back long before.
        Refusal::OverBudget(tomorrow.since(now).min(BUDGET_AGAIN))
    }
}

/// A budget of nothing is spent.
fn part(spent: Money, budget: Money) -> f64 {
    if budget == Money::ZERO { 1.0 } else { spent.as_f64() / budget.as_f64() }
}

/// Books a charge; repeated, since it can be repeated.
async fn book(ledger: Arc<dyn Ledger>, charge: Charge) {
    let mut wait = FIRST_WAIT;
    for left in (0..CHARGE_TRIES).rev() {
        match ledger.charge(charge.clone()).await {
            Ok(()) => return,
            Err(error) if left == 0 => tracing::error!(
                job.id = %charge.entry.job_id, provider = charge.entry.provider, billed_ms = charge.billed_ms, %error,
                "work could not be booked; it is missing in the costs"
            ),
            Err(error) => {
                tracing::warn!(provider = charge.entry.provider, %error, "work could not be booked; trying again");
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
