//! Requests per minute, never exceeded in any minute, as a Generic Cell Rate Algorithm (ITU-T I.371, "virtual
//! scheduling"): one number to remember, whatever the rate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How many requests a provider takes in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// So many; 0 is taken for 1.
    pub requests: u32,
    /// In any span of this length.
    pub per: Duration,
}

impl Rate {
    /// Requests in any 60 seconds.
    pub fn per_minute(requests: u32) -> Self {
        Self { requests, per: Duration::from_secs(60) }
    }

    /// What may be made up for at once after a pause: 1.5 % of the rate. Waiters look again a little too late now and
    /// then; without it that would be lost.
    fn burst(self) -> u32 {
        self.requests * 3 / 200
    }

    /// Left out altogether: requests do not arrive in the very moment that they are let go. 1 %.
    fn slack(self) -> u32 {
        self.requests / 100
    }

    /// Microseconds between two requests in the long run. In a span of length `per`, at both ends inclusive, there are
    /// at most `burst + floor(per / interval) + 1` requests, which is `requests - slack`.
    fn interval(self) -> i64 {
        let steady = i64::from((self.requests - self.burst() - self.slack()).max(1));
        let per = i64::try_from(self.per.as_micros()).unwrap_or(i64::MAX / 2);
        per / steady + 1
    }

    fn tolerance(self) -> i64 {
        self.interval().saturating_mul(i64::from(self.burst()))
    }
}

/// How far the allowance is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RateState {
    /// When the next request would be due if all came evenly: microseconds since the epoch.
    due: i64,
}

impl RateState {
    /// How long the next request has to wait; zero when it may go.
    pub(super) fn wait(self, now: Timestamp, rate: Rate) -> Duration {
        let early = self.due(now, rate) - rate.tolerance() - micros(now);
        // Rounded up: whoever comes back after exactly this time finds room.
        Duration::from_millis(u64::try_from(early).map_or(0, |early| early.div_ceil(1000)))
    }

    /// Counts a request.
    pub(super) fn take(&mut self, now: Timestamp, rate: Rate) {
        self.due = self.due(now, rate).max(micros(now)).saturating_add(rate.interval());
    }

    /// A rate that was lower before may have put it too far ahead.
    fn due(self, now: Timestamp, rate: Rate) -> i64 {
        let most = micros(now) + rate.tolerance() + rate.interval();
        self.due.min(most)
    }
}

fn micros(at: Timestamp) -> i64 {
    at.as_millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets requests come at these times, and says when those that may go went.
    fn run(rate: Rate, gaps: &[u16]) -> Vec<i64> {
        let (mut state, mut now, mut went) = (RateState::default(), 1_700_000_000_000_i64, Vec::new());
        for gap in gaps {
            now += i64::from(*gap);
            let at = Timestamp::from_millis(now);
            if state.wait(at, rate).is_zero() {
                state.take(at, rate);
                went.push(now);
            }
        }
        went
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_its_requests(
            requests in 1_u32..400,
            gaps in proptest::collection::vec(prop_oneof![Just(0_u16), 0_u16..50, 0_u16..3000, Just(60_000_u16)], 1..3000),
        ) {
            let went = run(Rate::per_minute(requests), &gaps);
            for (first, begin) in went.iter().enumerate() {
                let within = went[first..].iter().take_while(|at| **at <= begin + 60_000).count();
                prop_assert!(within <= requests as usize, "{within} of {requests} from {begin}");
            }
        }

        #[test]
        fn almost_all_of_it_can_be_used(requests in 1_u32..2000) {
            let rate = Rate::per_minute(requests);
            let (mut state, mut now, mut count) = (RateState::default(), 0_i64, 0_u32);
            // Whoever comes back when told to is let through.
            while now < 600_000 {
                let at = Timestamp::from_millis(now);
                state.take(at, rate);
                count += 1;
                now += i64::try_from(state.wait(at, rate).as_millis())?;
                prop_assert!(state.wait(Timestamp::from_millis(now), rate).is_zero());
            }
            prop_assert!(f64::from(count) >= 0.97 * 10.0 * f64::from(requests), "{count} of 10 x {requests}");
        }
    }

    #[test]
    fn a_raised_rate_holds_at_once() {
        let mut state = RateState::default();
        let now = Timestamp::from_millis(1_000_000);
        state.take(now, Rate::per_minute(1));
        assert!(state.wait(now, Rate::per_minute(1)) > Duration::from_secs(59));
        assert!(state.wait(now, Rate::per_minute(600)) < Duration::from_millis(110));
    }
}
