//! How many permits a pool has: pure arithmetic over the load and the time.

use std::time::Duration;

/// Share of the permits that is held from which on a pool counts as busy, in percent.
const BUSY_PERCENT: usize = 80;
/// Share of the permits that is held up to which a pool counts as idle, in percent.
const IDLE_PERCENT: usize = 30;

/// The bounds between which the number of permits moves, and how fast it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// The fewest permits, with which a pool begins.
    pub min: usize,
    /// The most.
    pub max: usize,
    /// Time of being busy (80 % of the permits wanted) after which there are half as many more.
    pub up_after: Duration,
    /// Time of being idle (at most 30 % of the permits held) after which there are a quarter fewer.
    pub down_after: Duration,
}

impl Sizing {
    /// The same number of permits, always.
    pub const fn fixed(permits: usize) -> Self {
        Self { min: permits, max: permits, up_after: Duration::ZERO, down_after: Duration::ZERO }
    }

    /// Between these bounds: more permits within a tenth of a second, so that a burst is let in; fewer only after half a
    /// minute, so that the next burst finds them.
    pub const fn between(min: usize, max: usize) -> Self {
        Self { min, max, up_after: Duration::from_millis(100), down_after: Duration::from_secs(30) }
    }
}

/// What is asked of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) held: usize,
    pub(crate) waiting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tendency {
    Up,
    Down,
}

/// The number of permits as it follows the load. Between two calls the load must not have changed: whoever changes it
/// calls [`Self::settle`] before, with the old load, and after, with the new one. Then no timer is needed.
#[derive(Debug)]
pub(crate) struct Size {
    rules: Sizing,
    now: usize,
    /// Where it tends to, and since when.
    since: Option<(Tendency, Duration)>,
}

impl Size {
    pub(crate) fn new(rules: Sizing) -> Self {
        let rules = Sizing { min: rules.min.min(rules.max), ..rules };
        Self { rules, now: rules.min, since: None }
    }

    pub(crate) fn get(&self) -> usize {
        self.now
    }

    pub(crate) fn max(&self) -> usize {
        self.rules.max
    }

    /// Makes the steps that are due at `at`, under a load that was the same since the last call. `cap` is asked before
    /// every growth how many permits there is room for; it can take permits away, but never below the minimum.
    pub(crate) fn settle(&mut self, at: Duration, load: Load, cap: &dyn Fn() -> usize) {
        loop {
            let Some(tendency) = self.tendency(load) else {
                self.since = None;
                return;
            };
            let since = match self.since {
                Some((before, since)) if before == tendency => since,
                _ => {
                    self.since = Some((tendency, at));
                    at
                }
            };
            let due = since.saturating_add(self.patience(tendency));
            if at < due {
                return;
            }
            let size = self.step(tendency, cap);
            // Where something stands in the way, it is looked at again after the same time.
            self.since = Some((tendency, if size == self.now { at } else { due }));
            if size == self.now {
                return;
            }
            self.now = size;
        }
    }

    /// When there will be more permits under this load; `None` when there will not.
    pub(crate) fn grows_at(&self, load: Load) -> Option<Duration> {
        match (self.tendency(load), self.since) {
            (Some(Tendency::Up), Some((Tendency::Up, since))) => {
                Some(since.saturating_add(self.rules.up_after))
            }
            _ => None,
        }
    }

    fn tendency(&self, load: Load) -> Option<Tendency> {
        let wanted = load.held.saturating_add(load.waiting);
        if self.now < self.rules.max && wanted * 100 >= self.now * BUSY_PERCENT {
            Some(Tendency::Up)
        } else if self.now > self.rules.min && load.waiting == 0 && load.held * 100 <= self.now * IDLE_PERCENT
        {
            Some(Tendency::Down)
        } else {
            None
        }
    }

    fn patience(&self, tendency: Tendency) -> Duration {
        match tendency {
            Tendency::Up => self.rules.up_after,
            Tendency::Down => self.rules.down_after,
        }
    }

    /// A quarter less of what is at most 30 % held is at most 40 % held: far from busy again.
    fn step(&self, tendency: Tendency, cap: &dyn Fn() -> usize) -> usize {
        let size = match tendency {
            Tendency::Up => (self.now + (self.now / 2).max(1)).min(cap()),
            Tendency::Down => self.now - (self.now / 4).max(1),
        };
        size.clamp(self.rules.min, self.rules.max)
    }
}

/// The number of permits for which there is memory, or disk: those that are held have theirs already.
pub(crate) fn affordable(held: usize, free_bytes: u64, bytes_per_permit: u64) -> usize {
    let more = free_bytes / bytes_per_permit.max(1);
    held.saturating_add(usize::try_from(more).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Sizing =
        Sizing { min: 4, max: 20, up_after: Duration::from_secs(1), down_after: Duration::from_secs(10) };

    fn held(held: usize) -> Load {
        Load { held, waiting: 0 }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn plenty() -> usize {
        usize::MAX
    }

    #[test]
    fn busy_pools_grow_by_half_and_idle_ones_shrink_by_a_quarter() {
        let mut size = Size::new(RULES);
        assert_eq!(size.get(), 4);
        size.settle(secs(0), held(4), &plenty);
        size.settle(Duration::from_millis(999), held(4), &plenty);
        assert_eq!(size.get(), 4, "not yet");
        size.settle(secs(1), held(4), &plenty);
        assert_eq!(size.get(), 6);
        // 4 of 6 is no longer busy: it stays so however long it lasts.
        size.settle(secs(100), held(4), &plenty);
        assert_eq!(size.get(), 6);
        size.settle(secs(100), held(1), &plenty);
        size.settle(secs(110), held(1), &plenty);
        assert_eq!(size.get(), 5);
        size.settle(secs(500), held(0), &plenty);
        assert_eq!(size.get(), 4, "never below the minimum");
    }

    #[test]
    fn a_long_silence_makes_up_for_all_steps() {
        let mut size = Size::new(RULES);
        let crowd = Load { held: 4, waiting: 100 };
        size.settle(secs(0), crowd, &plenty);
        size.settle(secs(3), crowd, &plenty);
        assert_eq!(size.get(), 13, "4, 6, 9, 13");
        size.settle(secs(60), crowd, &plenty);
        assert_eq!(size.get(), 20, "never over the maximum");
    }

    #[test]
    fn the_middle_resets_the_patience() {
        let mut size = Size::new(RULES);
        for at in 0..10 {
            let busy = at % 2 == 0;
            let load = held(if busy { 4 } else { 2 });
            size.settle(Duration::from_millis(at * 900), load, &plenty);
        }
        assert_eq!(size.get(), 4);
    }

    #[test]
    fn memory_stands_in_the_way_of_more_and_can_take_some_away() {
        let mut size = Size::new(RULES);
        let load = Load { held: 9, waiting: 9 };
        size.settle(secs(0), load, &plenty);
        size.settle(secs(2), load, &plenty);
        assert_eq!(size.get(), 9);
        size.settle(secs(30), load, &|| 7);
        assert_eq!(size.get(), 7);
        size.settle(secs(60), load, &|| 0);
        assert_eq!(size.get(), 4);
        size.settle(secs(90), load, &plenty);
        assert!(size.get() > 4, "it comes back");
    }

    #[test]
    fn permits_that_are_held_are_paid_for() {
        assert_eq!(affordable(10, 99, 10), 19);
        assert_eq!(affordable(10, 0, 10), 10);
        assert_eq!(affordable(1, u64::MAX, 0), usize::MAX);
    }

    #[test]
    fn growth_is_foretold() {
        let mut size = Size::new(RULES);
        assert_eq!(size.grows_at(held(4)), None, "nobody has looked yet");
        size.settle(secs(5), held(4), &plenty);
        assert_eq!(size.grows_at(held(4)), Some(secs(6)));
        assert_eq!(Size::new(Sizing::fixed(3)).grows_at(held(3)), None);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_comes_to_rest(
            loads in prop::collection::vec((0_usize..40, 0_u64..20_000), 1..60),
            cap in 0_usize..40,
        ) {
            let mut size = Size::new(RULES);
            let (mut at, mut load) = (Duration::ZERO, held(0));
            for (wanted, pause) in loads {
                at += Duration::from_millis(pause);
                size.settle(at, load, &|| cap);
                load = Load { held: wanted.min(size.get()), waiting: wanted.saturating_sub(size.get()) };
                size.settle(at, load, &|| cap);
                prop_assert!((4..=20).contains(&size.get()));
            }
            // Under a load that fits, it does not swing.
            let load = held(load.held.min(10));
            for second in 0..300 {
                size.settle(at + secs(second), load, &plenty);
            }
            let rest = size.get();
            for second in 300..600 {
                size.settle(at + secs(second), load, &plenty);
                prop_assert_eq!(size.get(), rest);
            }
        }
    }
}
