//! A pool of permits: a limited number can be held at once, further requests wait for a while. The number follows the load
//! between two bounds, and what memory and disk allow. Of the requests that wait, that of the holder with the fewest permits
//! is served first.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::holder::Holder;
use crate::share::Reserve;
use crate::sizing::{Sizing, affordable};
use crate::state::State;

/// A wait without end, where something has to be added to a point in time.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time for which a holder that was refused counts as waiting: it was told to come back, and must find its share then.
const REFUSED_COUNTS: Duration = Duration::from_secs(10);

/// The rules of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// The number of permits.
    pub sizing: Sizing,
    /// Requests that may wait for a permit, shared like the permits; more are refused at once.
    pub max_waiting: usize,
    /// The part of the permits that a holder leaves free when it is the only one.
    pub reserve: Reserve,
}

/// A resource that bounds the number of permits: memory, or a disk.
pub struct Headroom {
    /// Bytes that are free; `None` when nobody knows, which sets no bounds.
    pub free: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// Bytes that the work behind one permit may need.
    pub per_permit: u64,
}

impl fmt::Debug for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headroom").field("per_permit", &self.per_permit).finish_non_exhaustive()
    }
}

/// A pool as it now is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    /// Permits there are now.
    pub permits: usize,
    /// The most there can be.
    pub max: usize,
    /// Permits held. More than there are, for a while, after their number has sunk.
    pub held: usize,
    /// Permits that are waited for.
    pub waiting: usize,
    /// Holders that hold or wait.
    pub holders: usize,
}

impl PoolUse {
    /// Part of the permits that is held.
    pub fn utilisation(&self) -> f64 {
        if self.permits == 0 { 0.0 } else { self.held as f64 / self.permits as f64 }
    }
}

/// Shows how full a pool is. Called under a lock, with every change: must be quick.
pub trait PoolGauge: Send + Sync {
    /// The pool has changed to this.
    fn show(&self, now: PoolUse);

    /// A request got no permit.
    fn refused(&self, why: Refused);
}

/// Shows nothing.
impl PoolGauge for () {
    fn show(&self, _: PoolUse) {}
    fn refused(&self, _: Refused) {}
}

/// Why there was no permit in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All permits are held.
    #[error("everything is in use")]
    Full,
    /// The holder has its share, and the rest is for others.
    #[error("your share is in use")]
    Share,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Full, Self::Share];

    /// The reason as metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Share => "share",
        }
    }
}

/// A pool of permits; clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    config: PoolConfig,
    headroom: Vec<Headroom>,
    gauge: Box<dyn PoolGauge>,
    started: Instant,
    state: Mutex<State>,
}

/// Permits of a pool that are held; dropping them gives them back.
#[must_use = "a permit is given back at once when nobody keeps it"]
pub struct Permit {
    /// `None` when there is nothing to give back.
    pool: Option<Arc<Shared>>,
    holder: Holder,
    amount: usize,
}

/// A request that waits.
struct Ticket {
    pool: Arc<Shared>,
    holder: Holder,
    number: u64,
    called: oneshot::Receiver<Permit>,
}

impl Pool {
    /// A pool with these rules that shows itself on `gauge`.
    pub fn new(config: PoolConfig, headroom: Vec<Headroom>, gauge: Box<dyn PoolGauge>) -> Self {
        let state = Mutex::new(State::new(&config));
        let shared = Shared { config, headroom, gauge, started: Instant::now(), state };
        shared.gauge.show(shared.lock().shown());
        Self(Arc::new(shared))
    }

    /// One permit for `holder`.
    ///
    /// # Errors
    /// When there is none within `patience`, or too many wait already.
    pub async fn acquire(&self, holder: &Holder, patience: Duration) -> Result<Permit, Refused> {
        self.acquire_many(holder, 1, patience).await
    }

    /// Several permits at once. A request for more than the pool can ever have gets all of it, once nobody else holds any.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub async fn acquire_many(
        &self,
        holder: &Holder,
        amount: usize,
        patience: Duration,
    ) -> Result<Permit, Refused> {
        let mut ticket = self.request(holder, amount, patience.is_zero())?;
        let permit = ticket.wait(Instant::now() + patience.min(LONG)).await;
        permit.ok_or_else(|| self.refuse(holder, amount, ticket))
    }

    /// One permit, if there is one at once.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_acquire(&self, holder: &Holder) -> Result<Permit, Refused> {
        let mut ticket = self.request(holder, 1, true)?;
        ticket.called.try_recv().map_err(|_| self.refuse(holder, 1, ticket))
    }

    /// The pool as it now is.
    pub fn usage(&self) -> PoolUse {
        self.0.change(|state, _| state.shown())
    }

    /// Whether somebody other than `holder` waits for a permit.
    pub fn others_wait(&self, holder: &Holder) -> bool {
        self.0.lock().others_wait(holder)
    }

    /// Lines a request up. With `at_once` the line is no place to stay, so that its length does not matter.
    fn request(&self, holder: &Holder, amount: usize, at_once: bool) -> Result<Ticket, Refused> {
        let (call, called) = oneshot::channel();
        let number = self.0.change(|state, config| {
            let amount = amount.min(state.size.max());
            let enters =
                at_once || state.may_wait(config, holder) || state.is_served_at_once(config, holder, amount);
            (enters && state.size.max() > 0).then(|| state.line_up(holder, amount, call))
        });
        match number {
            Some(number) => Ok(Ticket { pool: self.0.clone(), holder: holder.clone(), number, called }),
            None => Err(self.count_refusal(holder, amount)),
        }
    }

    fn refuse(&self, holder: &Holder, amount: usize, ticket: Ticket) -> Refused {
        drop(ticket);
        self.count_refusal(holder, amount)
    }

    fn count_refusal(&self, holder: &Holder, amount: usize) -> Refused {
        let until = self.0.started.elapsed() + REFUSED_COUNTS;
        let why = self.0.change(|state, config| {
            state.note_refusal(holder, until);
            state.why(config, holder, amount)
        });
        self.0.gauge.refused(why);
        why
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the changes that time has brought, then this one, and calls those for whom there is a permit now.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, &PoolConfig) -> T) -> T
    where
        Self: Sized,
    {
        let mut state = self.lock();
        self.settle(&mut state);
        let outcome = change(&mut state, &self.config);
        while let Some((holder, request)) = state.next(&self.config) {
            let permit = Permit { pool: Some(self.clone()), holder: holder.clone(), amount: request.amount };
            match request.call.send(permit) {
                Ok(()) => state.hold(&holder, request.amount),
                // The request was given up meanwhile. Dropping the permit as it is would ask for the lock that is held here.
                Err(mut permit) => permit.pool = None,
            }
        }
        self.settle(&mut state);
        self.gauge.show(state.shown());
        outcome
    }

    fn settle(&self, state: &mut State) {
        let (now, load) = (self.started.elapsed(), state.load());
        let allowed = |room: &Headroom| Some(affordable(load.held, (room.free)()?, room.per_permit));
        let cap = || self.headroom.iter().filter_map(allowed).min().unwrap_or(usize::MAX);
        state.size.settle(now, load, &cap);
        state.forget_refusals(now);
    }
}

impl Ticket {
    /// Waits to be called, until `end`. Wakes up in between when a busy pool is about to grow.
    async fn wait(&mut self, end: Instant) -> Option<Permit> {
        loop {
            let grows = {
                let state = self.pool.lock();
                state.size.grows_at(state.load()).map(|after| self.pool.started + after)
            };
            let wake = grows.map_or(end, |grows| grows.min(end));
            if let Ok(called) = timeout_at(wake, &mut self.called).await {
                return called.ok();
            }
            self.pool.change(|_, _| ());
            if wake >= end {
                return self.called.try_recv().ok();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A permit that has been sent already is given back by its own drop.
        let (holder, number) = (self.holder.clone(), self.number);
        self.pool.change(|state, _| drop(state.leave_line(&holder, number)));
    }
}

impl Permit {
    /// Adds permits of the same pool to this one, for the same holder.
    ///
    /// # Errors
    /// When there are none within `patience`; what is held stays.
    pub async fn grow(&mut self, amount: usize, patience: Duration) -> Result<(), Refused> {
        let Some(pool) = self.pool.clone() else { return Ok(()) };
        let mut more = Pool(pool).acquire_many(&self.holder, amount, patience).await?;
        self.amount += more.amount;
        more.pool = None;
        Ok(())
    }

    /// The number of permits in this one.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Whose it is.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Whether somebody other than the holder waits for a permit of the same pool.
    pub fn others_wait(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| Pool(pool.clone()).others_wait(&self.holder))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.change(|state, _| state.release(&self.holder, self.amount));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({} of {:?})", self.amount, self.holder)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.lock().shown()).finish()
    }
}
