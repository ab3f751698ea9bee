//! Azure's times as milliseconds: the only place where they are converted.

use serde::{Deserialize, Deserializer, de};

/// Ticks of 100 ns in a millisecond.
const TICKS_PER_MS: u64 = 10_000;

/// A time in ticks of 100 ns, as short audio and batch give it; written as a whole number or as one with `.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ticks(u64);

impl Ticks {
    /// Milliseconds, rounded half up.
    pub(super) fn millis(self) -> u64 {
        (self.0 + TICKS_PER_MS / 2) / TICKS_PER_MS
    }

    /// The time `length` later. Ends are added up before they are rounded.
    pub(super) fn plus(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

/// A time in milliseconds, as fast transcription gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Millis(pub(super) u64);

/// A year in ticks: anything beyond is no time of a recording.
const LONGEST: f64 = 365.0 * 86_400.0 * 1e7;

fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if !(0.0..=LONGEST).contains(&number) {
        return Err(de::Error::custom("a time is negative or far too large"));
    }
    // Below 2^53 every whole number is exact.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let rounded = (number + 0.5).floor() as u64;
    Ok(rounded)
}

impl<'de> Deserialize<'de> for Ticks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_milliseconds_rounded_half_up() {
        for (ticks, millis) in [
            (0, 0),
            (4_999, 0),
            (5_000, 1),
            (10_000, 1),
            (14_999, 1),
            (15_000, 2),
            (700_000, 70),
            (36_000_000_000_000, 3_600_000_000),
        ] {
            assert_eq!(Ticks(ticks).millis(), millis, "{ticks}");
        }
    }

    #[test]
    fn an_end_is_added_up_before_it_is_rounded() {
        assert_eq!(Ticks(4_000).plus(Ticks(4_000)).millis(), 1);
        assert_eq!(Ticks(6_000).plus(Ticks(6_000)).millis(), 1);
    }

    #[test]
    fn both_spellings_are_read_and_nonsense_is_not() {
        for text in ["15000", "15000.0", "1.5e4"] {
            assert_eq!(serde_json::from_str::<Ticks>(text).ok(), Some(Ticks(15_000)), "{text}");
        }
        for text in ["-1", "1e300", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Millis>(text).is_err(), "{text}");
        }
    }
}
