//! A pool of permits: a limited number can be held at once, and further requests wait in a queue for as long as they have
//! patience. The holder with the fewest permits is served first.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::holder::Holder;
use crate::share::Reserve;
use crate::sizing::{Headroom, Sizing};
use crate::state::State;

/// The longest patience: `Duration::MAX` cannot be added to a point in time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time for which a holder contends after it was refused: its client was told to come back, and must find its share then.
const REFUSED_COUNTS: Duration = Duration::from_secs(10);

/// The rules of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// The rule for the number of permits.
    pub sizing: Sizing,
    /// Requests that may wait, shared like the permits; further ones are refused at once.
    pub max_waiting: usize,
    /// Permits that a holder leaves free while it is the only one.
    pub reserve: Reserve,
}

/// A pool as it now is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    /// Permits there are now.
    pub permits: usize,
    /// The most there can be.
    pub max: usize,
    /// Permits held; more than there are, for a while, after their number has sunk.
    pub held: usize,
    /// Permits that are waited for.
    pub waiting: usize,
    /// Holders that hold permits, wait for some, or were refused a moment ago.
    pub holders: usize,
}

impl PoolUse {
    /// Part of the permits that is held.
    pub fn utilisation(&self) -> f64 {
        if self.permits == 0 { 0.0 } else { self.held as f64 / self.permits as f64 }
    }
}

/// A display of how full a pool is. It is called under the lock of the pool with every change, and must be quick.
pub trait PoolGauge: Send + Sync {
    /// The pool has changed, and is like this now.
    fn show(&self, now: PoolUse);

    /// A request got no permit.
    fn refused(&self, why: Refused);
}

/// A display that shows nothing.
impl PoolGauge for () {
    fn show(&self, _: PoolUse) {}

    fn refused(&self, _: Refused) {}
}

/// The reason why a request got no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All permits are held, or the request is for more than there are.
    #[error("everything is in use")]
    Full,
    /// The holder has its share; the remaining permits are for others.
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
    headroom: Vec<Headroom>,
    gauge: Box<dyn PoolGauge>,
    started: Instant,
    state: Mutex<State>,
}

/// Permits of a pool that are held; dropping them gives them back.
#[must_use = "a permit that is not kept is given back at once"]
pub struct Permit {
    /// `None` when another permit took this one over.
    pool: Option<Arc<Shared>>,
    holder: Holder,
    amount: usize,
}

/// A request in the queue, for as long as its caller waits.
struct Ticket {
    pool: Arc<Shared>,
    holder: Holder,
    number: u64,
    called: oneshot::Receiver<Permit>,
}

impl Pool {
    /// A pool with these rules, for whose permits all of the resources must have room, that shows itself on `gauge`.
    pub fn new(config: PoolConfig, headroom: Vec<Headroom>, gauge: Box<dyn PoolGauge>) -> Self {
        let state = Mutex::new(State::new(config));
        let shared = Arc::new(Shared { headroom, gauge, started: Instant::now(), state });
        shared.change(|_| ());
        Self(shared)
    }

    /// One permit for `holder`.
    ///
    /// # Errors
    /// When none is free within `patience`, or too many requests wait already.
    pub async fn acquire(&self, holder: &Holder, patience: Duration) -> Result<Permit, Refused> {
        self.acquire_many(holder, 1, patience).await
    }

    /// Several permits at once, or none. Zero are always there.
    ///
    /// # Errors
    /// As [`Self::acquire`]; and when there are fewer permits than that, held ones included.
    pub async fn acquire_many(
        &self,
        holder: &Holder,
        amount: usize,
        patience: Duration,
    ) -> Result<Permit, Refused> {
        if amount == 0 {
            return Ok(Permit { pool: Some(self.0.clone()), holder: holder.clone(), amount });
        }
        let mut ticket = self.request(holder, amount, patience.is_zero())?;
        let permit = ticket.wait(Instant::now() + patience.min(LONGEST)).await;
        permit.ok_or_else(|| self.refuse(holder, amount, ticket))
    }

    /// One permit, if one is free.
    ///
    /// # Errors
    /// When none is.
    pub fn try_acquire(&self, holder: &Holder) -> Result<Permit, Refused> {
        let mut ticket = self.request(holder, 1, true)?;
        ticket.called.try_recv().map_err(|_| self.refuse(holder, 1, ticket))
    }

    /// The pool as it now is.
    pub fn usage(&self) -> PoolUse {
        self.0.change(|state| state.shown())
    }

    /// Permits that have to come back before there is one more for this holder, and one for each request that waits; its
    /// share is not looked at.
    pub fn lacking(&self, holder: &Holder) -> usize {
        self.0.lock().lacking(holder)
    }

    /// Whether a holder other than this one waits for a permit.
    pub fn others_wait(&self, holder: &Holder) -> bool {
        self.0.lock().others_wait(holder)
    }

    /// Adds a request to the queue. One that leaves at once if it is not served may join however long the queue is.
    fn request(&self, holder: &Holder, amount: usize, leaves_at_once: bool) -> Result<Ticket, Refused> {
        let (call, called) = oneshot::channel();
        let number = self.0.change(|state| {
            let joins =
                if leaves_at_once { amount <= state.size.max() } else { state.admits(holder, amount) };
            joins.then(|| state.enqueue(holder, amount, call))
        });
        match number {
            Some(number) => Ok(Ticket { pool: self.0.clone(), holder: holder.clone(), number, called }),
            None => Err(self.0.refuse(holder, amount)),
        }
    }

    fn refuse(&self, holder: &Holder, amount: usize, ticket: Ticket) -> Refused {
        drop(ticket);
        self.0.refuse(holder, amount)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and hands permits to the requests that can be served then. The number of permits is settled before
    /// the change, under the load until now, and after it, under the new one.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        self.settle(&mut state);
        let outcome = change(&mut state);
        while let Some((holder, request)) = state.next() {
            let permit = Permit { pool: Some(self.clone()), holder: holder.clone(), amount: request.amount };
            match request.call.send(permit) {
                Ok(()) => state.hold(&holder, request.amount),
                // The caller has gone meanwhile. The permit would take the lock, which is held here, to give itself back.
                Err(mut permit) => permit.pool = None,
            }
        }
        self.settle(&mut state);
        self.gauge.show(state.shown());
        outcome
    }

    fn settle(&self, state: &mut State) {
        let (now, load, max) = (self.started.elapsed(), state.load(), state.size.max());
        state.size.settle(now, load, &|| Headroom::of_all(&self.headroom, load.held));
        if state.size.max() < max {
            state.drop_oversized();
        }
        state.forget_refusals(now);
    }

    /// Counts a refusal, and says why it is one.
    fn refuse(self: &Arc<Self>, holder: &Holder, amount: usize) -> Refused {
        let until = self.started.elapsed() + REFUSED_COUNTS;
        let why = self.change(|state| {
            state.note_refusal(holder, until);
            state.why(holder, amount)
        });
        self.gauge.refused(why);
        why
    }
}

impl Ticket {
    /// Waits for the permit until `end`, settling the number of permits whenever that is due.
    async fn wait(&mut self, end: Instant) -> Option<Permit> {
        loop {
            let due = {
                let state = self.pool.lock();
                state.size.settles_at(self.pool.started.elapsed(), state.load())
            };
            let wake = due.map_or(end, |due| (self.pool.started + due).min(end));
            if let Ok(called) = timeout_at(wake, &mut self.called).await {
                return called.ok();
            }
            self.pool.change(|_| ());
            if wake >= end {
                return self.called.try_recv().ok();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A permit that was sent already gives itself back when the channel is dropped.
        self.pool.change(|state| drop(state.dequeue(&self.holder, self.number)));
    }
}

impl Permit {
    /// Adds permits of the same pool to this one, for the same holder.
    ///
    /// # Errors
    /// As [`Pool::acquire_many`]; what is held stays.
    pub async fn grow(&mut self, amount: usize, patience: Duration) -> Result<(), Refused> {
        let Some(pool) = self.pool.clone() else { return Ok(()) };
        let mut more = Pool(pool).acquire_many(&self.holder, amount, patience).await?;
        self.amount += more.amount;
        more.pool = None;
        Ok(())
    }

    /// Adds permits if so many are free within the holder's share, ahead of all requests that wait: those may be waiting for
    /// what this permit's work gives back when it is done, and the work cannot be done without more.
    ///
    /// # Errors
    /// When there are fewer; what is held stays.
    pub fn grow_ahead(&mut self, amount: usize) -> Result<(), Refused> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let grows = pool.change(|state| {
            let fits = state.fits(&self.holder, amount);
            if fits {
                state.hold(&self.holder, amount);
            }
            fits
        });
        if !grows {
            return Err(pool.refuse(&self.holder, amount));
        }
        self.amount += amount;
        Ok(())
    }

    /// Splits so many permits off, at most all: they can be given back on their own.
    pub fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { pool: self.pool.clone(), holder: self.holder.clone(), amount }
    }

    /// The number of permits in this one.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// The holder whose share it counts for.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Whether another holder waits for a permit of the same pool.
    pub fn others_wait(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| Pool(pool.clone()).others_wait(&self.holder))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.change(|state| state.release(&self.holder, self.amount));
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
