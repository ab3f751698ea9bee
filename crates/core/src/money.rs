//! Money, in whole millionths of the configured currency, so that sums are exact.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An amount of money. The currency is the configuration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Money(u64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From millionths.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// In millionths.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// From a price as people write it. `None` for what is no amount: negative, infinite, not a number.
    pub fn parse(amount: f64) -> Option<Self> {
        let micros = (amount * 1e6).round();
        (0.0..9e15).contains(&micros).then_some(Self(micros as u64))
    }

    /// What `length` costs at this price per hour, rounded up to the next millionth.
    #[must_use]
    pub fn per_hour(self, length: Duration) -> Self {
        let micros = u128::from(self.0) * length.as_millis();
        Self(u64::try_from(micros.div_ceil(3_600_000)).unwrap_or(u64::MAX))
    }

    /// As a number of whole units, for display and for gauges.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_costs_its_price_and_a_part_of_it_its_share() {
        let price = Money::parse(0.36).expect("an amount");
        assert_eq!(price.per_hour(Duration::from_secs(3600)), price);
        assert_eq!(price.per_hour(Duration::from_secs(10)), Money::from_micros(1_000));
        assert_eq!(price.per_hour(Duration::from_millis(1)), Money::from_micros(1), "rounded up");
        assert_eq!(price.to_string(), "0.360000");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for amount in [-1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert_eq!(Money::parse(amount), None, "{amount}");
        }
    }
}
