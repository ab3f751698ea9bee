//! `verbatim cost report`: what the work has cost, straight from the books, whether or not a server runs.

use std::time::Duration;

use serde_json::{Value, json};
use verbatim_core::costs::{Sum, Trend, daily, trend, trend_days};
use verbatim_core::ids::JobId;
use verbatim_core::money::Money;
use verbatim_core::ports::ledger::{Charge, Day, DayTotal};
use verbatim_core::time::Clock;

use crate::cli::{CostArgs, CostCommand, CostReportArgs, Grouping};
use crate::config::Config;
use crate::ledger::Books;
use crate::system::SystemClock;

/// What stands where a price should.
const UNKNOWN: &str = "price unknown";

/// Prints the report that was asked for.
///
/// # Errors
/// When the books cannot be reached.
pub async fn run(arguments: CostArgs, config: &Config) -> anyhow::Result<()> {
    let CostCommand::Report(report) = arguments.command;
    let books = Books::open(config).await?;
    let currency = config.costs.currency.as_deref();
    let text = match &report.job {
        Some(job) => of_job(job, &books.of_job(job).await?, currency, report.json),
        None => of_days(&report, &books, currency).await?,
    };
    println!("{text}");
    Ok(())
}

async fn of_days(
    arguments: &CostReportArgs,
    books: &Books,
    currency: Option<&str>,
) -> anyhow::Result<String> {
    let today = Day::of(SystemClock.now());
    let from = today.earlier(arguments.days - 1);
    let (trend_from, trend_to) = trend_days(today);
    let totals = books.totals(from.min(trend_from), today).await?;
    let report = Report {
        from,
        to: today,
        by: arguments.by,
        currency,
        trend: trend_of(&totals, trend_from, trend_to),
    };
    let wanted: Vec<DayTotal> = totals.into_iter().filter(|total| total.day >= from).collect();
    Ok(if arguments.json { report.json(&wanted).to_string() } else { report.table(&wanted) })
}

fn trend_of(totals: &[DayTotal], from: Day, to: Day) -> Trend {
    let days = daily(totals.iter().filter(|total| (from..=to).contains(&total.day)), from, to);
    let costs: Vec<Money> = days.iter().map(|(_, sum)| sum.cost).collect();
    trend(&costs)
}

/// What all lines of a report share.
struct Report<'a> {
    from: Day,
    to: Day,
    by: Grouping,
    currency: Option<&'a str>,
    trend: Trend,
}

impl Report<'_> {
    fn lines(&self, totals: &[DayTotal]) -> Vec<(String, Sum)> {
        match self.by {
            // Days without charges are days, too.
            Grouping::Day => {
                daily(totals, self.from, self.to).into_iter().map(|(day, sum)| (date(day), sum)).collect()
            }
            Grouping::Provider => Sum::by(totals, |total| total.provider.clone()).into_iter().collect(),
            Grouping::Tenant => Sum::by(totals, |total| total.tenant.to_string()).into_iter().collect(),
        }
    }

    fn table(&self, totals: &[DayTotal]) -> String {
        let by = self.by.as_str();
        let currency = self.currency.map_or_else(String::new, |currency| format!(", in {currency}"));
        let mut lines = self.lines(totals);
        let width =
            lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(by.len()).max(8);
        lines.push(("total".to_owned(), Sum::of(totals)));
        let mut text = format!("Cost from {} to {} (UTC){currency}\n\n", date(self.from), date(self.to));
        text += &format!(
            "{by:<width$}  {:>8}  {:>11}  {:>14}  {:>14}\n",
            "jobs", "audio hours", "cost", "per audio hour"
        );
        for (name, sum) in &lines {
            let unpriced = match sum.unpriced_ms {
                0 => String::new(),
                all if all == sum.billed_ms => String::new(),
                some => format!("  ({} hours without a price)", hours(some)),
            };
            text += &format!(
                "{name:<width$}  {:>8}  {:>11}  {:>14}  {:>14}{unpriced}\n",
                sum.jobs,
                hours(sum.billed_ms),
                amount(sum.known_cost()),
                if sum.billed_ms == 0 { "-".to_owned() } else { amount(sum.per_audio_hour()) },
            );
        }
        let change = (self.trend.change * 100.0).round();
        text + &format!(
            "\nThe cost of a day over the last 7 full days is {} ({change:+} %)",
            self.trend.direction.as_str()
        )
    }

    fn json(&self, totals: &[DayTotal]) -> Value {
        let lines = self.lines(totals);
        json!({
            "from": date(self.from),
            "to": date(self.to),
            "currency": self.currency,
            "by": self.by.as_str(),
            "data": lines.iter().map(|(name, sum)| {
                let mut line = figures(sum);
                line[self.by.as_str()] = name.as_str().into();
                line
            }).collect::<Value>(),
            "total": figures(&Sum::of(totals)),
            "trend": { "direction": self.trend.direction.as_str(), "change": self.trend.change },
        })
    }
}

fn figures(sum: &Sum) -> Value {
    json!({
        "jobs": sum.jobs,
        "audio_secs": secs(sum.billed_ms),
        "unpriced_audio_secs": secs(sum.unpriced_ms),
        "cost": sum.known_cost().map(Money::as_f64),
        "cost_per_audio_hour": sum.per_audio_hour().map(Money::as_f64),
    })
}

/// What was charged for one job: a line for each attempt that a provider was paid for.
fn of_job(job: &JobId, charges: &[Charge], currency: Option<&str>, as_json: bool) -> String {
    let known: Vec<Money> = charges.iter().filter_map(|charge| charge.cost).collect();
    let total = (!known.is_empty()).then(|| known.iter().copied().sum::<Money>());
    if as_json {
        let line = |charge: &Charge| {
            json!({
                "attempt": charge.entry.fence.get(),
                "provider": charge.entry.provider,
                "tenant": charge.tenant.as_str(),
                "audio_secs": secs(charge.billed_ms),
                "cost": charge.cost.map(Money::as_f64),
            })
        };
        let data: Value = charges.iter().map(line).collect();
        return json!({ "job": job.as_str(), "currency": currency, "data": data, "total": total.map(Money::as_f64) })
            .to_string();
    }
    if charges.is_empty() {
        return format!(
            "nothing was charged for {job} as far as is remembered; charges of single jobs are kept for some days"
        );
    }
    let mut text = format!("{:<20}  {:<16}  {:>12}  {:>14}\n", "provider", "tenant", "audio secs", "cost");
    for charge in charges {
        text += &format!(
            "{:<20}  {:<16}  {:>12.2}  {:>14}\n",
            charge.entry.provider,
            charge.tenant.as_str(),
            secs(charge.billed_ms),
            amount(charge.cost)
        );
    }
    let currency = currency.map_or_else(String::new, |currency| format!(" {currency}"));
    text + &match total {
        Some(total) => format!("\ntotal {total}{currency}"),
        None => format!("\ntotal: {UNKNOWN}"),
    }
}

fn amount(money: Option<Money>) -> String {
    money.map_or_else(|| UNKNOWN.to_owned(), |money| money.to_string())
}

fn hours(millis: u64) -> String {
    format!("{:.2}", secs(millis) / 3600.0)
}

fn secs(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}

/// As `2026-01-31`.
fn date(day: Day) -> String {
    let start = jiff::Timestamp::from_millisecond(day.start().as_millis());
    start.map_or_else(|_| "-".to_owned(), |start| start.to_string().chars().take(10).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbatim_core::costs::Direction;
    use verbatim_core::ids::{Fence, TenantId};
    use verbatim_core::ports::ledger::EntryId;

    const DAY: Day = Day::from_number(20_000);

    fn total(day: Day, provider: &str, tenant: &str, cost: Option<u64>) -> DayTotal {
        let billed_ms = 5_400_000;
        DayTotal {
            day,
            provider: provider.into(),
            tenant: TenantId::parse(tenant).unwrap(),
            jobs: 3,
            billed_ms,
            unpriced_ms: if cost.is_some() { 0 } else { billed_ms },
            cost: Money::from_micros(cost.unwrap_or(0)),
        }
    }

    fn report(by: Grouping) -> Report<'static> {
        let trend = Trend { direction: Direction::Rising, change: 0.25 };
        Report { from: DAY.earlier(1), to: DAY, by, currency: Some("EUR"), trend }
    }

    fn totals() -> [DayTotal; 2] {
        [total(DAY, "azure", "acme", Some(540_000)), total(DAY, "whisper", "other", None)]
    }

    #[test]
    fn a_table_has_totals_prices_and_says_where_there_are_none() {
        let expected = "\
Cost from 2024-10-03 to 2024-10-04 (UTC), in EUR

provider      jobs  audio hours            cost  per audio hour
azure            3         1.50        0.540000        0.360000
whisper          3         1.50   price unknown   price unknown
total            6         3.00        0.540000        0.360000  (1.50 hours without a price)

The cost of a day over the last 7 full days is rising (+25 %)";
        assert_eq!(report(Grouping::Provider).table(&totals()), expected);
    }

    #[test]
    fn days_without_charges_are_lines_too() {
        let report = report(Grouping::Day).json(&totals());
        assert_eq!(
            report["data"][0],
            json!({
                "day": "2024-10-03", "jobs": 0, "audio_secs": 0.0, "unpriced_audio_secs": 0.0, "cost": 0.0,
                "cost_per_audio_hour": null,
            })
        );
        assert_eq!((&report["data"][1]["cost"], &report["total"]["jobs"]), (&json!(0.54), &json!(6)));
        assert_eq!(report["trend"]["direction"], "rising");
    }

    #[test]
    fn tenants_are_told_apart() {
        let report = report(Grouping::Tenant).json(&totals());
        assert_eq!(
            (&report["data"][0]["tenant"], &report["data"][1]["tenant"]),
            (&json!("acme"), &json!("other"))
        );
        assert_eq!(report["data"][1]["cost"], Value::Null);
    }

    #[test]
    fn a_job_is_charged_for_each_attempt_that_was_paid_for() {
        let job = JobId::parse("work_01JD8N3W0S5Y6T7E8Z9QK4M2VX").unwrap();
        let charge = |fence, cost: Option<u64>| Charge {
            entry: EntryId { job_id: job.clone(), fence: Fence::new(fence), provider: "azure".into() },
            tenant: TenantId::default(),
            billed_ms: 10_000,
            cost: cost.map(Money::from_micros),
        };
        let charges = [charge(1, Some(1_000)), charge(2, Some(2_000)), charge(3, None)];
        let shown = of_job(&job, &charges, Some("EUR"), false);
        assert!(shown.ends_with("total 0.003000 EUR") && shown.contains(UNKNOWN), "{shown}");
        let shown: Value = serde_json::from_str(&of_job(&job, &charges, None, true)).unwrap();
        assert_eq!((&shown["total"], &shown["data"][2]["cost"]), (&json!(0.003), &Value::Null));
        assert!(of_job(&job, &[], None, false).contains("nothing was charged"));
    }
}
