//! What the books say in a few figures: sums by provider, tenant or day, the price of an hour, and where it is going.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::money::Money;
use crate::ports::ledger::{Day, DayTotal};

/// Days that a trend looks at.
pub const TREND_DAYS: u32 = 7;
/// A line that rises or falls by less than this part of the average, from its first day to its last, is level.
const LEVEL: f64 = 0.1;

/// A sum of some totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Charges.
    pub jobs: u64,
    /// Milliseconds of audio billed.
    pub billed_ms: u64,
    /// Of these, milliseconds for which no price is known.
    pub unpriced_ms: u64,
    /// What it cost, as far as prices are known.
    pub cost: Money,
}

impl Sum {
    /// Of all these.
    pub fn of<'a>(totals: impl IntoIterator<Item = &'a DayTotal>) -> Self {
        let mut sum = Self::default();
        for total in totals {
            sum.add(total);
        }
        sum
    }

    /// Each by `key`, in order of their keys.
    pub fn by<'a, K: Ord>(
        totals: impl IntoIterator<Item = &'a DayTotal>,
        key: impl Fn(&'a DayTotal) -> K,
    ) -> BTreeMap<K, Self> {
        let mut sums = BTreeMap::<K, Self>::new();
        for total in totals {
            sums.entry(key(total)).or_default().add(total);
        }
        sums
    }

    fn add(&mut self, total: &DayTotal) {
        self.jobs += total.jobs;
        self.billed_ms += total.billed_ms;
        self.unpriced_ms += total.unpriced_ms;
        self.cost += total.cost;
    }

    /// The length of the audio billed.
    pub fn billed(&self) -> Duration {
        Duration::from_millis(self.billed_ms)
    }

    /// What is known of the cost: `None` when no price of any of it is.
    pub fn known_cost(&self) -> Option<Money> {
        (self.billed_ms == 0 || self.unpriced_ms < self.billed_ms).then_some(self.cost)
    }

    /// What an hour of audio cost, of that for which a price is known; `None` when there is none.
    pub fn per_audio_hour(&self) -> Option<Money> {
        let priced = u128::from(self.billed_ms.saturating_sub(self.unpriced_ms));
        let micros = u128::from(self.cost.as_micros()) * 3_600_000;
        let per_hour = (micros + priced / 2).checked_div(priced)?;
        Some(Money::from_micros(u64::try_from(per_hour).unwrap_or(u64::MAX)))
    }
}

/// Where the cost of a day is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Up.
    Rising,
    /// Down.
    Falling,
    /// Neither.
    Stable,
}

impl Direction {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rising => "rising",
            Self::Falling => "falling",
            Self::Stable => "stable",
        }
    }
}

/// How the cost of a day changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Where it is going.
    pub direction: Direction,
    /// The change from the first day to the last, as a part of the average day.
    pub change: f64,
}

/// The trend of these daily costs, the earliest first: the straight line that fits them best (least squares), and its
/// change from the first day to the last as a part of the average day. Up to a tenth either way is stable.
pub fn trend(days: &[Money]) -> Trend {
    let count = days.len() as f64;
    let mean = days.iter().map(|day| day.as_f64()).sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (index, day) in days.iter().enumerate() {
        let from_middle = index as f64 - middle;
        covariance += from_middle * (day.as_f64() - mean);
        variance += from_middle * from_middle;
    }
    let change = covariance / variance * (count - 1.0) / mean;
    // No days, one day, or nothing spent: nothing changes.
    let change = if change.is_finite() { change } else { 0.0 };
    let direction = match change {
        up if up > LEVEL => Direction::Rising,
        down if down < -LEVEL => Direction::Falling,
        _ => Direction::Stable,
    };
    Trend { direction, change }
}

/// The days that a trend looks at: the last seven that are over. Today would look like a fall.
pub fn trend_days(today: Day) -> (Day, Day) {
    (today.earlier(TREND_DAYS), today.earlier(1))
}

/// The cost of each day from `from` to `to`, both included; days without charges cost nothing.
pub fn daily<'a>(totals: impl IntoIterator<Item = &'a DayTotal>, from: Day, to: Day) -> Vec<(Day, Sum)> {
    let mut sums = Sum::by(totals, |total| total.day);
    let days = from.number()..=to.number();
    days.map(Day::from_number).map(|day| (day, sums.remove(&day).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;

    fn costs(days: &[u64]) -> Vec<Money> {
        days.iter().map(|units| Money::from_micros(units * 1_000_000)).collect()
    }

    fn total(day: i64, provider: &str, billed_secs: u64, cost: Option<u64>) -> DayTotal {
        DayTotal {
            day: Day::from_number(day),
            provider: provider.into(),
            tenant: TenantId::default(),
            jobs: 1,
            billed_ms: billed_secs * 1000,
            unpriced_ms: if cost.is_some() { 0 } else { billed_secs * 1000 },
            cost: Money::from_micros(cost.unwrap_or(0)),
        }
    }

    #[test]
    fn a_trend_is_the_slope_of_the_best_line() {
        let rising = trend(&costs(&[10, 11, 12, 13, 14, 15, 16]));
        assert_eq!(rising.direction, Direction::Rising);
        assert!((rising.change - 6.0 / 13.0).abs() < 1e-9, "{}", rising.change);
        assert_eq!(trend(&costs(&[16, 15, 14, 13, 12, 11, 10])).direction, Direction::Falling);
        // One day out of the ordinary in the middle is no trend, and neither is a little noise.
        assert_eq!(trend(&costs(&[10, 10, 10, 90, 10, 10, 10])).direction, Direction::Stable);
        assert_eq!(trend(&costs(&[100, 103, 99, 101, 104, 98, 102])).direction, Direction::Stable);
        assert_eq!(trend(&costs(&[0, 0, 0, 0, 0, 0, 50])).direction, Direction::Rising);
    }

    #[test]
    fn a_tenth_either_way_is_stable() {
        // From 95 to 105 around 100: exactly a tenth.
        assert_eq!(trend(&costs(&[95, 105])).direction, Direction::Stable);
        assert_eq!(trend(&costs(&[94, 106])).direction, Direction::Rising);
        assert_eq!(trend(&costs(&[106, 94])).direction, Direction::Falling);
    }

    #[test]
    fn where_nothing_was_spent_nothing_changes() {
        for days in [&[][..], &[0], &[5], &[0, 0, 0]] {
            assert_eq!(trend(&costs(days)), Trend { direction: Direction::Stable, change: 0.0 }, "{days:?}");
        }
    }

    #[test]
    fn an_hour_costs_what_the_priced_hours_cost() {
        let totals = [total(1, "azure", 1800, Some(500_000)), total(1, "azure", 3600, None)];
        let sum = Sum::of(&totals);
        assert_eq!(sum.per_audio_hour(), Some(Money::from_micros(1_000_000)));
        assert_eq!(sum.known_cost(), Some(Money::from_micros(500_000)));
        let unpriced = Sum::of(&totals[1..]);
        assert_eq!((unpriced.per_audio_hour(), unpriced.known_cost()), (None, None));
        assert_eq!(Sum::default().known_cost(), Some(Money::ZERO), "nothing costs nothing");
    }

    #[test]
    fn sums_are_kept_apart_and_days_without_charges_are_there() {
        let totals =
            [total(3, "azure", 10, Some(4)), total(5, "azure", 10, Some(6)), total(5, "own", 10, Some(0))];
        let by_provider = Sum::by(&totals, |total| total.provider.as_str());
        assert_eq!(by_provider["azure"].cost, Money::from_micros(10));
        assert_eq!((by_provider["own"].jobs, by_provider.len()), (1, 2));
        let days = daily(&totals, Day::from_number(3), Day::from_number(5));
        let costs: Vec<u64> = days.iter().map(|(_, sum)| sum.cost.as_micros()).collect();
        assert_eq!(costs, [4, 0, 6]);
        assert_eq!(trend_days(Day::from_number(10)), (Day::from_number(3), Day::from_number(9)));
    }
}
