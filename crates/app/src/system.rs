//! The adapters of the two smallest ports: the system's clock and the system's randomness. The only place in the house
//! that may ask for either.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use verbatim_core::ids::IdSource;
use verbatim_core::time::{Clock, Timestamp};

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind `Clock`")]
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The system's randomness. Identifiers made by one process rise strictly, so that lists by id are lists by age.
#[derive(Debug, Default)]
pub struct SystemIds {
    generator: Mutex<ulid::Generator>,
}

impl IdSource for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind `IdSource`")]
    fn ulid(&self) -> String {
        let mut generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner);
        // The generator refuses only after 2^80 identifiers within a millisecond.
        generator.generate().unwrap_or_else(|_| ulid::Ulid::generate()).to_string()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind `IdSource`")]
    fn fraction(&self) -> f64 {
        rand::rng().random()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind `IdSource`")]
    fn secret(&self) -> [u8; 32] {
        rand::rng().random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_even_within_a_millisecond() {
        let ids = SystemIds::default();
        let made: Vec<String> = (0..1000).map(|_| ids.ulid()).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
