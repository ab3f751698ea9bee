//! Places at a stage of the work: so many may be at it at once, the others wait in line for a while. Their number
//! follows the load between two bounds, and what memory and disk allow. A place is given back by dropping it.

mod sizing;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use sizing::Sizing;
use sizing::{Load, Size, affordable};

/// A wait without end, where something has to be added to a point in time.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// The rules of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesConfig {
    /// How many places there are.
    pub sizing: Sizing,
    /// How many may wait for one; more are turned away at once.
    pub max_waiting: usize,
}

/// What memory or a disk has to say about the number of places.
pub struct Cap {
    /// Bytes that are free; `None` when nobody knows, which sets no bounds.
    pub free: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// Bytes that whoever takes a place may need.
    pub per_place: u64,
}

impl fmt::Debug for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cap").field("per_place", &self.per_place).finish_non_exhaustive()
    }
}

/// A stage as it now is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlacesUse {
    /// Places there are now.
    pub places: usize,
    /// The most there can be.
    pub max: usize,
    /// Those taken. More than there are, for a while, after places were taken away.
    pub taken: usize,
    /// Who waits for one.
    pub waiting: usize,
}

impl PlacesUse {
    /// The part of the places that is taken.
    pub fn utilisation(&self) -> f64 {
        if self.places == 0 { 0.0 } else { self.taken as f64 / self.places as f64 }
    }
}

/// Where a stage shows how full it is. Called under a lock, with every change: must be quick.
pub trait PlacesGauge: Send + Sync {
    /// This is how it now is.
    fn show(&self, now: PlacesUse);

    /// Somebody was turned away.
    fn turned_away(&self);
}

/// Shows nothing.
impl PlacesGauge for () {
    fn show(&self, _: PlacesUse) {}
    fn turned_away(&self) {}
}

/// There was no place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no place for more")]
pub struct TurnedAway;

/// The places of one stage; clones share them.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    config: PlacesConfig,
    caps: Vec<Cap>,
    gauge: Box<dyn PlacesGauge>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    size: Size,
    taken: usize,
    /// Who waits, by the number that was drawn: the lowest is next.
    waiting: BTreeMap<u64, oneshot::Sender<Place>>,
    next_number: u64,
}

/// A place at a stage.
#[must_use = "a place is given back at once when nobody keeps it"]
pub struct Place(Option<Arc<Shared>>);

/// A place in the line.
struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    called: oneshot::Receiver<Place>,
}

enum Entry {
    Place(Place),
    Line(Ticket),
    Closed,
}

impl Places {
    /// A stage with these rules that shows itself on `gauge`.
    pub fn new(config: PlacesConfig, caps: Vec<Cap>, gauge: Box<dyn PlacesGauge>) -> Self {
        let size = Size::new(config.sizing);
        let state = Mutex::new(State { size, taken: 0, waiting: BTreeMap::new(), next_number: 0 });
        let shared = Shared { config, caps, gauge, started: Instant::now(), state };
        shared.gauge.show(shared.lock().shown());
        Self(Arc::new(shared))
    }

    /// A place; whoever comes first is served first.
    ///
    /// # Errors
    /// When there is none within `patience`, or too many wait already.
    pub async fn take(&self, patience: Duration) -> Result<Place, TurnedAway> {
        let place = match self.enter(!patience.is_zero()) {
            Entry::Place(place) => Some(place),
            Entry::Line(mut ticket) => ticket.wait(Instant::now() + patience.min(LONG)).await,
            Entry::Closed => None,
        };
        if place.is_none() {
            self.0.gauge.turned_away();
        }
        place.ok_or(TurnedAway)
    }

    /// A stage as it now is.
    pub fn usage(&self) -> PlacesUse {
        self.0.change(|_| ())
    }

    fn enter(&self, may_wait: bool) -> Entry {
        let shared = &self.0;
        let mut entry = Entry::Closed;
        shared.change(|state| {
            if state.waiting.is_empty() && state.taken < state.size.get() {
                state.taken += 1;
                entry = Entry::Place(Place(Some(shared.clone())));
            } else if may_wait && state.size.max() > 0 && state.waiting.len() < shared.config.max_waiting {
                let (call, called) = oneshot::channel();
                let number = state.next_number;
                state.next_number += 1;
                state.waiting.insert(number, call);
                entry = Entry::Line(Ticket { shared: shared.clone(), number, called });
            }
        });
        entry
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the changes that time has brought, then this one, and calls those for whom there is a place now.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) -> PlacesUse {
        let mut state = self.lock();
        self.settle(&mut state);
        change(&mut state);
        while state.taken < state.size.get() {
            let Some((_, call)) = state.waiting.pop_first() else { break };
            if let Err(mut place) = call.send(Place(Some(self.clone()))) {
                // Whoever waited has gone. Dropping the place as it is would ask for the lock that we hold.
                place.0 = None;
            } else {
                state.taken += 1;
            }
        }
        self.settle(&mut state);
        let shown = state.shown();
        self.gauge.show(shown);
        shown
    }

    fn settle(&self, state: &mut State) {
        let load = state.load();
        let allowed = |cap: &Cap| Some(affordable(load.taken, (cap.free)()?, cap.per_place));
        let cap = || self.caps.iter().filter_map(allowed).min().unwrap_or(usize::MAX);
        state.size.settle(self.started.elapsed(), load, &cap);
    }
}

impl State {
    fn load(&self) -> Load {
        Load { taken: self.taken, waiting: self.waiting.len() }
    }

    fn shown(&self) -> PlacesUse {
        let Load { taken, waiting } = self.load();
        PlacesUse { places: self.size.get(), max: self.size.max(), taken, waiting }
    }
}

impl Ticket {
    /// Waits to be called, until `end`. Wakes up in between when a busy stage is about to get more places.
    async fn wait(&mut self, end: Instant) -> Option<Place> {
        loop {
            let grows = {
                let state = self.shared.lock();
                state.size.grows_at(state.load()).map(|after| self.shared.started + after)
            };
            let wake = grows.map_or(end, |grows| grows.min(end));
            if let Ok(called) = timeout_at(wake, &mut self.called).await {
                return called.ok();
            }
            self.shared.change(|_| ());
            if wake >= end {
                return self.called.try_recv().ok();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A place that has been sent already is given back by its own drop.
        let number = self.number;
        self.shared.change(|state| drop(state.waiting.remove(&number)));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.change(|state| state.taken -= 1);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.lock().shown()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn stage(sizing: Sizing, max_waiting: usize) -> Places {
        Places::new(PlacesConfig { sizing, max_waiting }, Vec::new(), Box::new(()))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_place_waits_and_is_turned_away_in_the_end() {
        let places = stage(Sizing::fixed(1), 10);
        let place = places.take(SOON).await.unwrap();
        let began = Instant::now();
        assert_eq!(places.take(SOON).await.unwrap_err(), TurnedAway);
        assert_eq!(began.elapsed(), SOON);
        assert_eq!(places.take(Duration::ZERO).await.unwrap_err(), TurnedAway);
        assert_eq!(places.usage(), PlacesUse { places: 1, max: 1, taken: 1, waiting: 0 });
        drop(place);
        assert!(places.take(Duration::ZERO).await.is_ok());
        assert_eq!(places.usage().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_served_in_order_and_those_who_leave_it_are_passed_over() {
        let places = stage(Sizing::fixed(1), 10);
        let place = places.take(SOON).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let waits = |number: u32| {
            let (places, order) = (places.clone(), order.clone());
            tokio::spawn(async move {
                let place = places.take(LONG).await.unwrap();
                order.lock().unwrap().push(number);
                tokio::time::sleep(SOON).await;
                drop(place);
            })
        };
        let mut tasks = Vec::new();
        for number in 0..4 {
            tasks.push(waits(number));
            tokio::task::yield_now().await;
        }
        assert_eq!(places.usage().waiting, 4);
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        assert_eq!(places.usage().waiting, 3);
        drop(place);
        join_all(tasks).await;
        assert_eq!(*order.lock().unwrap(), [0, 2, 3]);
        assert_eq!(places.usage().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_sent_to_somebody_who_goes_is_not_lost() {
        let places = stage(Sizing::fixed(1), 10);
        let place = places.take(SOON).await.unwrap();
        let mut first = Box::pin(places.take(LONG));
        assert!(futures::poll!(&mut first).is_pending());
        // The place is on its way to `first`, which never looks again.
        drop(place);
        assert_eq!(places.usage().taken, 1);
        drop(first);
        assert_eq!(places.usage(), PlacesUse { places: 1, max: 1, taken: 0, waiting: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_full_turns_away_at_once() {
        let places = stage(Sizing::fixed(1), 1);
        let _place = places.take(SOON).await.unwrap();
        let mut waits = Box::pin(places.take(LONG));
        assert!(futures::poll!(&mut waits).is_pending());
        let began = Instant::now();
        assert!(places.take(LONG).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(stage(Sizing::fixed(0), 1).take(LONG).await.is_err(), "a stage without places has no line");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_makes_room_for_itself_up_to_the_maximum_and_in_the_end_it_shrinks_again() {
        let places = stage(Sizing::between(4, 32), 1_000);
        let (peak, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let visitors = (0..200).map(|_| {
            let (places, peak, served) = (places.clone(), peak.clone(), served.clone());
            tokio::spawn(async move {
                let place = places.take(LONG).await.unwrap();
                let used = places.usage();
                assert!(used.taken <= used.places && used.places <= 32);
                peak.fetch_max(used.taken, Ordering::Relaxed);
                tokio::time::sleep(SOON).await;
                drop(place);
                served.fetch_add(1, Ordering::Relaxed);
            })
        });
        join_all(visitors).await;
        assert_eq!((served.load(Ordering::Relaxed), peak.load(Ordering::Relaxed)), (200, 32));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(places.usage(), PlacesUse { places: 4, max: 32, taken: 0, waiting: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_place_that_is_added_although_nobody_leaves() {
        let places = stage(Sizing::between(1, 2), 10);
        let _first = places.take(SOON).await.unwrap();
        let began = Instant::now();
        let _second = places.take(SOON).await.unwrap();
        assert_eq!(began.elapsed(), Sizing::between(1, 2).up_after);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_no_more_places_than_the_scarcest_thing_allows() {
        let free = Arc::new(AtomicU64::new(25));
        let seen = free.clone();
        let scarce = Cap { free: Box::new(move || Some(seen.load(Ordering::Relaxed))), per_place: 10 };
        let plenty = Cap { free: Box::new(|| Some(u64::MAX)), per_place: 1 };
        let unknown = Cap { free: Box::new(|| None), per_place: 1 };
        let config = PlacesConfig { sizing: Sizing::between(1, 100), max_waiting: 10 };
        let places = Places::new(config, vec![unknown, scarce, plenty], Box::new(()));
        let _first = places.take(SOON).await.unwrap();
        let _second = places.take(SOON).await.unwrap();
        free.store(5, Ordering::Relaxed);
        assert!(places.take(SOON).await.is_err());
        free.store(10, Ordering::Relaxed);
        assert!(places.take(SOON).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn threads_that_come_wait_and_go_leave_no_place_behind() {
        let places = stage(Sizing::between(2, 4), 1_000);
        let inside = Arc::new(AtomicUsize::new(0));
        let visitors = (0..64_u64).map(|visitor| {
            let (places, inside) = (places.clone(), inside.clone());
            tokio::spawn(async move {
                for round in 0..50 {
                    let patience = Duration::from_micros((visitor * 7 + round * 13) % 200);
                    if let Ok(place) = places.take(patience).await {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 4);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                }
            })
        });
        for visitor in join_all(visitors).await {
            visitor.unwrap();
        }
        let left = places.usage();
        assert_eq!((left.taken, left.waiting), (0, 0));
    }
}
