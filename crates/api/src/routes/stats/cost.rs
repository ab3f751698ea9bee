//! What the work costs: today against the budgets, and where it is going.

use std::time::Duration;

use verbatim_core::costs::{Sum, TREND_DAYS, daily, trend, trend_days};
use verbatim_core::money::Money;
use verbatim_core::ports::ledger::{Day, DayTotal};

use super::dto::{Cost, CostLine, DayCost, Expense, TrendView};
use crate::dto::rfc3339;
use crate::routes::providers::{Provider, rounded};
use crate::state::CostTerms;

/// How many days before today are looked at.
pub(super) const DAYS: u32 = TREND_DAYS;

/// What the figures are held against.
pub(super) struct Books<'a> {
    pub(super) today: Day,
    pub(super) terms: &'a CostTerms,
    pub(super) providers: &'a [Provider],
}

impl Books<'_> {
    /// The report on these totals, of today and the [`DAYS`] before it.
    pub(super) fn report(&self, totals: &[DayTotal]) -> Cost {
        let today = || totals.iter().filter(|total| total.day == self.today);
        let budget_of = |name: &str| {
            self.providers.iter().find(|provider| provider.name == name).and_then(|known| known.daily_budget)
        };
        let mut by_provider = Sum::by(today(), |total| total.provider.as_str());
        // A budget of which nothing is spent yet is there all the same.
        for provider in self.providers.iter().filter(|provider| provider.daily_budget.is_some()) {
            by_provider.entry(provider.name.as_str()).or_default();
        }
        let by_tenant = Sum::by(today(), |total| total.tenant.as_str());
        let (from, to) = trend_days(self.today);
        let days = daily(totals.iter().filter(|total| total.day < self.today), from, to);
        let costs: Vec<Money> = days.iter().map(|(_, sum)| sum.cost).collect();
        let change = trend(&costs);
        Cost {
            currency: self.terms.currency.clone(),
            day: date(self.today),
            today: expense(&Sum::of(today())),
            providers: by_provider.iter().map(|(name, sum)| line(name, sum, budget_of(name))).collect(),
            tenants: by_tenant
                .iter()
                .map(|(name, sum)| line(name, sum, self.terms.tenant_daily_budget))
                .collect(),
            trend: TrendView {
                direction: change.direction.as_str(),
                change: rounded(change.change),
                days: days.iter().map(|(day, sum)| DayCost { day: date(*day), sum: expense(sum) }).collect(),
            },
            comparison: compared(totals),
        }
    }
}

/// Every provider over all these days, the cheapest hour first; those without a price last.
fn compared(totals: &[DayTotal]) -> Vec<CostLine> {
    let mut sums: Vec<_> = Sum::by(totals, |total| total.provider.as_str()).into_iter().collect();
    sums.sort_by_key(|(_, sum)| (sum.per_audio_hour().is_none(), sum.per_audio_hour()));
    sums.iter().map(|(name, sum)| line(name, sum, None)).collect()
}

fn line(name: &str, sum: &Sum, budget: Option<Money>) -> CostLine {
    CostLine {
        name: name.to_owned(),
        sum: expense(sum),
        budget: budget.map(Money::as_f64),
        budget_used: budget.map(|budget| rounded(sum.cost.as_f64() / budget.as_f64().max(1e-6))),
    }
}

fn expense(sum: &Sum) -> Expense {
    let seconds = |millis| rounded(Duration::from_millis(millis).as_secs_f64());
    Expense {
        jobs: sum.jobs,
        audio_secs: seconds(sum.billed_ms),
        unpriced_audio_secs: seconds(sum.unpriced_ms),
        cost: sum.known_cost().map(Money::as_f64),
        cost_per_audio_hour: sum.per_audio_hour().map(Money::as_f64),
    }
}

/// As `2026-01-31`.
pub(super) fn date(day: Day) -> String {
    rfc3339(day.start()).chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbatim_core::ids::TenantId;

    fn total(day: Day, provider: &str, tenant: &str, micros: Option<u64>) -> DayTotal {
        DayTotal {
            day,
            provider: provider.into(),
            tenant: TenantId::parse(tenant).unwrap(),
            jobs: 1,
            billed_ms: 1_800_000,
            unpriced_ms: if micros.is_some() { 0 } else { 1_800_000 },
            cost: Money::from_micros(micros.unwrap_or(0)),
        }
    }

    #[test]
    fn the_report_tells_today_apart_and_compares_by_the_hour() {
        let today = Day::from_number(20_000);
        let terms = CostTerms {
            currency: Some("EUR".into()),
            tenant_daily_budget: Some(Money::from_micros(400_000)),
        };
        let mut totals: Vec<DayTotal> = (1..=7)
            .map(|ago| total(today.earlier(ago), "azure", "acme", Some(u64::from(8 - ago) * 100_000)))
            .collect();
        totals.push(total(today, "azure", "acme", Some(100_000)));
        totals.push(total(today, "cheap", "acme", Some(2)));
        totals.push(total(today, "whisper", "other", None));
        let cost = Books { today, terms: &terms, providers: &[] }.report(&totals);
        assert_eq!(cost.day, "2024-10-04");
        assert_eq!((cost.today.jobs, cost.today.cost), (3, Some(0.100_002)));
        let tenants: Vec<_> =
            cost.tenants.iter().map(|line| (line.name.as_str(), line.budget_used)).collect();
        assert_eq!(tenants, [("acme", Some(0.25)), ("other", Some(0.0))]);
        assert_eq!(cost.tenants[1].sum.cost, None, "nobody knows the price");
        assert_eq!((cost.trend.direction, cost.trend.days.len()), ("rising", 7));
        let order: Vec<_> = cost.comparison.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(order, ["cheap", "azure", "whisper"]);
    }
}
