//! Which tier is served next: start-time fair queueing over the three tiers (Goyal, Vin and Cheng, 1996), every job
//! costing the same, so that 64 : 8 : 1 holds while all have work and none starves.

use rusqlite::Connection;
use verbatim_core::options::Priority;

use super::counters::{read, write};
use super::error::StoreResult;

/// What a job costs a tier of weight 1; a multiple of every weight, so that costs are whole numbers.
const UNIT: i64 = 64;

/// How much service the tiers have had, as virtual times. Loaded for a claim, saved after it.
pub(super) struct Shares {
    now: i64,
    /// When the last job of each tier is over, in the order of [`Priority::ALL`].
    finish: [i64; 3],
}

fn counter(tier: Priority) -> &'static str {
    match tier {
        Priority::Low => "service_low",
        Priority::Normal => "service_normal",
        Priority::High => "service_high",
    }
}

impl Shares {
    /// As the last claim left them.
    pub(super) fn load(conn: &Connection) -> StoreResult<Self> {
        let mut finish = [0; 3];
        for (slot, tier) in finish.iter_mut().zip(Priority::ALL) {
            *slot = read(conn, counter(tier))?;
        }
        Ok(Self { now: read(conn, "service_virtual_time")?, finish })
    }

    /// Keeps them for the next claim.
    pub(super) fn save(&self, conn: &Connection) -> StoreResult<()> {
        for (value, tier) in self.finish.into_iter().zip(Priority::ALL) {
            write(conn, counter(tier), value)?;
        }
        write(conn, "service_virtual_time", self.now)
    }

    /// The candidate whose tier is due, and that tier; the stronger one where two are.
    pub(super) fn choose<T>(&self, candidates: [Option<T>; 3]) -> Option<(Priority, T)> {
        let offered = Priority::ALL.into_iter().zip(candidates);
        let offered = offered.filter_map(|(tier, candidate)| candidate.map(|candidate| (tier, candidate)));
        offered.min_by_key(|(tier, _)| self.start(*tier))
    }

    /// A job of the tier is served.
    pub(super) fn charge(&mut self, tier: Priority) {
        self.now = self.start(tier);
        self.finish[slot(tier)] = self.now + UNIT / i64::from(tier.weight());
    }

    /// When the tier's next job begins.
    fn start(&self, tier: Priority) -> i64 {
        self.finish[slot(tier)].max(self.now)
    }
}

fn slot(tier: Priority) -> usize {
    match tier {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which slots are served in so many turns.
    fn turns(shares: &mut Shares, candidates: [Option<usize>; 3], count: usize) -> Vec<usize> {
        let serve = |_| {
            let (tier, slot) = shares.choose(candidates).unwrap();
            shares.charge(tier);
            slot
        };
        (0..count).map(serve).collect()
    }

    #[test]
    fn tiers_share_by_weight_while_all_have_work() {
        let mut shares = Shares { now: 0, finish: [0; 3] };
        let mut served = [0; 3];
        for slot in turns(&mut shares, [Some(0), Some(1), Some(2)], 730) {
            served[slot] += 1;
        }
        assert_eq!(served, [640, 80, 10]);
    }

    #[test]
    fn a_tier_that_had_no_work_does_not_catch_up_later() {
        let mut shares = Shares { now: 0, finish: [0; 3] };
        turns(&mut shares, [Some(0), None, None], 1000);
        let next = turns(&mut shares, [Some(0), None, Some(2)], 73);
        assert!(next.iter().filter(|slot| **slot == 2).count() <= 2, "{next:?}");
        assert!(next.contains(&2));
    }
}
