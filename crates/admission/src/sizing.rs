//! The number of permits of a pool: arithmetic over the load, the time and what there is room for.

use std::fmt;
use std::time::Duration;

/// Share of the permits that is held or waited for from which on a pool counts as busy, in percent.
const BUSY_PERCENT: usize = 80;
/// Share of the permits that is held up to which a pool counts as idle, in percent.
const IDLE_PERCENT: usize = 30;
/// The time after which a resource is measured again while requests wait for it: other processes free room, too.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// The rule by which a pool has its number of permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing(Rule);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Fixed(usize),
    Load(Bounds),
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    min: usize,
    max: usize,
    /// Time of being busy (80 % of the permits wanted) after which there are half as many more.
    up_after: Duration,
    /// Time of being idle (at most 30 % of the permits held) after which there are a quarter fewer.
    down_after: Duration,
}

impl Sizing {
    /// The same number of permits, always.
    pub const fn fixed(permits: usize) -> Self {
        Self(Rule::Fixed(permits))
    }

    /// As many permits as the load calls for, beginning with `min`: more of them after a tenth of a second, so that a burst
    /// is let in; fewer only after half a minute, so that the next burst finds them. Headroom bounds their growth.
    pub const fn between(min: usize, max: usize) -> Self {
        let min = if min < max { min } else { max };
        let (up_after, down_after) = (Duration::from_millis(100), Duration::from_secs(30));
        Self(Rule::Load(Bounds { min, max, up_after, down_after }))
    }

    /// As many permits as the headroom has room for at the moment.
    pub const fn room() -> Self {
        Self(Rule::Room)
    }
}

/// A resource that bounds the number of permits: memory, or a disk.
pub struct Headroom(Box<Measure>);

/// The number of permits that a resource has room for while so many are held; `None` when that is unknown.
type Measure = dyn Fn(usize) -> Option<usize> + Send + Sync;

impl Headroom {
    /// A resource that has `free` bytes (`None`: unknown, sets no bound), of which the work behind one permit takes
    /// `per_permit`. Permits that are held have taken theirs already.
    pub fn bytes(free: impl Fn() -> Option<u64> + Send + Sync + 'static, per_permit: u64) -> Self {
        Self(Box::new(move |held| {
            let more = free()? / per_permit.max(1);
            Some(held.saturating_add(usize::try_from(more).unwrap_or(usize::MAX)))
        }))
    }

    /// A resource that has room for so many permits, held ones included (`None`: unknown, sets no bound).
    pub fn permits(room: impl Fn() -> Option<usize> + Send + Sync + 'static) -> Self {
        Self(Box::new(move |_| room()))
    }

    /// The number of permits that all of the resources have room for while so many are held.
    pub(crate) fn of_all(resources: &[Self], held: usize) -> usize {
        resources.iter().filter_map(|Self(measure)| measure(held)).min().unwrap_or(usize::MAX)
    }
}

/// The permits of a pool that are held and waited for.
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

/// The number of permits of a pool. The load is constant between two calls of [`Self::settle`], which is called before each
/// change with the old load and after it with the new one; all steps due in between are known then, without a timer.
#[derive(Debug)]
pub(crate) struct Size {
    rule: Rule,
    now: usize,
    /// The direction in which the load pulls, and since when.
    since: Option<(Tendency, Duration)>,
}

impl Size {
    pub(crate) fn new(Sizing(rule): Sizing) -> Self {
        let now = match rule {
            Rule::Fixed(permits) => permits,
            Rule::Load(bounds) => bounds.min,
            Rule::Room => 0,
        };
        Self { rule, now, since: None }
    }

    pub(crate) fn get(&self) -> usize {
        self.now
    }

    /// The most permits that there can be, as far as can be told now.
    pub(crate) fn max(&self) -> usize {
        match self.rule {
            Rule::Load(bounds) => bounds.max,
            Rule::Fixed(_) | Rule::Room => self.now,
        }
    }

    /// Makes the changes that are due at `at`, under a load that was constant since the last call. `room` measures how many
    /// permits there is room for. With [`Sizing::between`] it is asked at each step up, where it can also take permits away,
    /// but never below the minimum.
    pub(crate) fn settle(&mut self, at: Duration, load: Load, room: &dyn Fn() -> usize) {
        match self.rule {
            Rule::Fixed(_) => {}
            Rule::Load(bounds) => self.follow(bounds, at, load, room),
            Rule::Room => self.now = room(),
        }
    }

    /// The time at which the number of permits has to be settled although the load is still the same.
    pub(crate) fn settles_at(&self, now: Duration, load: Load) -> Option<Duration> {
        match (self.rule, self.since) {
            (Rule::Load(bounds), Some((Tendency::Up, since))) => {
                let due = since.saturating_add(bounds.up_after);
                (self.tendency(bounds, load) == Some(Tendency::Up)).then_some(due)
            }
            (Rule::Room, _) => Some(now.saturating_add(MEASURE_EVERY)),
            _ => None,
        }
    }

    fn follow(&mut self, bounds: Bounds, at: Duration, load: Load, room: &dyn Fn() -> usize) {
        loop {
            let Some(tendency) = self.tendency(bounds, load) else {
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
            let due = since.saturating_add(bounds.patience(tendency));
            if at < due {
                return;
            }
            let size = self.step(bounds, tendency, room);
            // A step that found no room is tried again after the same time.
            self.since = Some((tendency, if size == self.now { at } else { due }));
            if size == self.now {
                return;
            }
            self.now = size;
        }
    }

    fn tendency(&self, bounds: Bounds, load: Load) -> Option<Tendency> {
        let wanted = load.held.saturating_add(load.waiting);
        let idle = load.waiting == 0 && load.held * 100 <= self.now * IDLE_PERCENT;
        if self.now < bounds.max && wanted * 100 >= self.now * BUSY_PERCENT {
            Some(Tendency::Up)
        } else if self.now > bounds.min && idle {
            Some(Tendency::Down)
        } else {
            None
        }
    }

    /// The number of permits after one step. A step down takes a quarter of a pool of which at most 30 % are held; at most
    /// 40 % are held then, so that the pool does not count as busy at once.
    fn step(&self, bounds: Bounds, tendency: Tendency, room: &dyn Fn() -> usize) -> usize {
        let size = match tendency {
            Tendency::Up => (self.now + (self.now / 2).max(1)).min(room()),
            Tendency::Down => self.now - (self.now / 4).max(1),
        };
        size.clamp(bounds.min, bounds.max)
    }
}

impl Bounds {
    fn patience(self, tendency: Tendency) -> Duration {
        match tendency {
            Tendency::Up => self.up_after,
            Tendency::Down => self.down_after,
        }
    }
}

impl fmt::Debug for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headroom").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Sizing = Sizing(Rule::Load(Bounds {
        min: 4,
        max: 20,
        up_after: Duration::from_secs(1),
        down_after: Duration::from_secs(10),
    }));

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
        // A pool of which 4 of 6 are held is not busy, however long that lasts.
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
    fn the_scarcest_resource_counts_and_permits_that_are_held_have_taken_theirs() {
        let allows = |free: Option<u64>, per_permit, held| {
            Headroom::of_all(&[Headroom::bytes(move || free, per_permit), Headroom::permits(|| None)], held)
        };
        assert_eq!(allows(Some(99), 10, 10), 19);
        assert_eq!(allows(Some(0), 10, 10), 10);
        assert_eq!(allows(Some(u64::MAX), 0, 1), usize::MAX);
        assert_eq!(allows(None, 10, 1), usize::MAX, "what is unknown sets no bound");
        let two = [Headroom::permits(|| Some(3)), Headroom::bytes(|| Some(99), 10)];
        assert_eq!(Headroom::of_all(&two, 10), 3);
    }

    #[test]
    fn a_pool_can_be_as_large_as_the_room_there_is() {
        let mut size = Size::new(Sizing::room());
        for room in [7, 0, 900] {
            size.settle(secs(0), held(5), &|| room);
            assert_eq!((size.get(), size.max()), (room, room));
        }
        assert_eq!(size.settles_at(secs(5), held(5)), Some(secs(6)), "it is measured again");
    }

    #[test]
    fn growth_is_foretold() {
        let mut size = Size::new(RULES);
        assert_eq!(size.settles_at(secs(5), held(4)), None, "the load is not known yet");
        size.settle(secs(5), held(4), &plenty);
        assert_eq!(size.settles_at(secs(5), held(4)), Some(secs(6)));
        assert_eq!(Size::new(Sizing::fixed(3)).settles_at(secs(5), held(3)), None);
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
