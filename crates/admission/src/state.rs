//! The books of a pool: permits held and requests waiting, by holder, and which request is served next. No clock, no lock
//! and no waking, which are the pool's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::holder::Holder;
use crate::pool::{Permit, PoolConfig, PoolUse, Refused};
use crate::share::{Reserve, share};
use crate::sizing::{Load, Size};

/// Holders whose refusal is remembered, at most: strangers choose how many there are, and each takes memory.
const MAX_REFUSED: usize = 4096;

/// The books of a pool.
pub(crate) struct State {
    pub(crate) size: Size,
    max_waiting: usize,
    reserve: Reserve,
    held: usize,
    /// Permits that are waited for.
    wanted: usize,
    /// Requests that wait for them.
    requests: usize,
    accounts: HashMap<Holder, Account>,
    /// Accounts that contend.
    contenders: usize,
    /// Holders that were refused, by the time at which to see whether that still counts.
    refused: VecDeque<(Duration, Holder)>,
    next_ticket: u64,
}

/// The permits and requests of one holder.
#[derive(Default)]
struct Account {
    held: usize,
    /// Requests in the order in which they came.
    waiting: BTreeMap<u64, Request>,
    /// Time since the start of the pool until which its last refusal counts.
    refused_until: Option<Duration>,
}

/// A request that waits.
pub(crate) struct Request {
    pub(crate) amount: usize,
    pub(crate) call: oneshot::Sender<Permit>,
}

impl State {
    pub(crate) fn new(config: PoolConfig) -> Self {
        let PoolConfig { sizing, max_waiting, reserve } = config;
        Self {
            size: Size::new(sizing),
            max_waiting,
            reserve,
            held: 0,
            wanted: 0,
            requests: 0,
            accounts: HashMap::new(),
            contenders: 0,
            refused: VecDeque::new(),
            next_ticket: 0,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load { held: self.held, waiting: self.wanted }
    }

    pub(crate) fn shown(&self) -> PoolUse {
        let Load { held, waiting } = self.load();
        let holders = self.accounts.len();
        PoolUse { permits: self.size.get(), max: self.size.max(), held, waiting, holders }
    }

    /// Changes an account and keeps count of the contenders. An account without permits that does not contend is removed.
    fn with_account<T>(&mut self, holder: &Holder, change: impl FnOnce(&mut Account) -> T) -> T {
        let account = self.accounts.entry(holder.clone()).or_default();
        let before = account.contends();
        let outcome = change(account);
        let (after, idle) = (account.contends(), account.held == 0);
        self.contenders = self.contenders + usize::from(after) - usize::from(before);
        if idle && !after {
            self.accounts.remove(holder);
        }
        outcome
    }

    /// Adds a request to the queue. Its ticket number says which one it is.
    pub(crate) fn enqueue(&mut self, holder: &Holder, amount: usize, call: oneshot::Sender<Permit>) -> u64 {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.wanted += amount;
        self.requests += 1;
        self.with_account(holder, |account| account.waiting.insert(number, Request { amount, call }));
        number
    }

    /// Takes a request out of the queue, if it is still there.
    pub(crate) fn dequeue(&mut self, holder: &Holder, number: u64) -> Option<Request> {
        let request = self.with_account(holder, |account| account.waiting.remove(&number))?;
        self.wanted -= request.amount;
        self.requests -= 1;
        Some(request)
    }

    pub(crate) fn hold(&mut self, holder: &Holder, amount: usize) {
        self.held += amount;
        self.with_account(holder, |account| account.held += amount);
    }

    pub(crate) fn release(&mut self, holder: &Holder, amount: usize) {
        self.held -= amount;
        self.with_account(holder, |account| account.held -= amount);
    }

    /// Whether a request that comes now may join the queue, or need not because it is served at once. Places in the queue
    /// are shared like permits. Requests for more than all permits are refused: waiting for them would hold up all others.
    pub(crate) fn admits(&self, holder: &Holder, amount: usize) -> bool {
        amount <= self.size.max() && (self.may_wait(holder) || self.is_served_at_once(holder, amount))
    }

    fn may_wait(&self, holder: &Holder) -> bool {
        let limit = share(self.max_waiting, self.reserve, self.contenders_with(holder));
        self.requests < self.max_waiting && self.waiting_of(holder) < limit
    }

    fn is_served_at_once(&self, holder: &Holder, amount: usize) -> bool {
        self.requests == 0 && self.fits(holder, amount)
    }

    /// Whether there is room for so many permits more, within the share of the holder. The queue is not looked at.
    pub(crate) fn fits(&self, holder: &Holder, amount: usize) -> bool {
        let contenders = self.contenders_with(holder);
        self.within_share(self.held_by(holder), amount, contenders) && self.has_room(holder, amount)
    }

    /// Whether a holder of so many permits stays within its share with so many more. A holder without permits always does,
    /// since a request may be larger than a share and would never be served.
    fn within_share(&self, held: usize, amount: usize, contenders: usize) -> bool {
        held == 0 || held.saturating_add(amount) <= share(self.size.get(), self.reserve, contenders)
    }

    fn has_room(&self, holder: &Holder, amount: usize) -> bool {
        self.held.saturating_add(amount) <= self.permits_for(holder)
    }

    /// The permits there are for a holder: those for newcomers only for one that is one.
    fn permits_for(&self, holder: &Holder) -> usize {
        let permits = self.size.get();
        let is_newcomer = holder.is_known() && self.held_by(holder) == 0;
        if is_newcomer { permits } else { permits - self.reserve.for_newcomers(permits) }
    }

    /// Permits that have to come back before there is one more for this holder and for each that waits, shares aside.
    pub(crate) fn lacking(&self, holder: &Holder) -> usize {
        (self.held + self.wanted + 1).saturating_sub(self.permits_for(holder))
    }

    /// The number of contenders, counting `holder` as one of them.
    fn contenders_with(&self, holder: &Holder) -> usize {
        let counted = self.accounts.get(holder).is_some_and(Account::contends);
        self.contenders + usize::from(!counted)
    }

    fn held_by(&self, holder: &Holder) -> usize {
        self.accounts.get(holder).map_or(0, |account| account.held)
    }

    fn waiting_of(&self, holder: &Holder) -> usize {
        self.accounts.get(holder).map_or(0, |account| account.waiting.len())
    }

    /// Whether a holder other than this one waits.
    pub(crate) fn others_wait(&self, holder: &Holder) -> bool {
        self.requests > self.waiting_of(holder)
    }

    /// Takes the request that is served next out of the queue: of the holders that are within their share, the one with the
    /// fewest permits comes first, with its oldest request. None overtakes that request while there is no room for it;
    /// otherwise small requests could keep a large one waiting for ever. What is kept for newcomers holds up nobody but
    /// those who are none.
    pub(crate) fn next(&mut self) -> Option<(Holder, Request)> {
        if self.requests == 0 {
            return None;
        }
        let first = |(holder, account): (&Holder, &Account)| {
            let (number, request) = account.waiting.first_key_value()?;
            let within = self.within_share(account.held, request.amount, self.contenders);
            let has_room = self.has_room(holder, request.amount);
            let waits_for_all = self.held.saturating_add(request.amount) > self.size.get();
            (within && (has_room || waits_for_all))
                .then(|| (account.held, *number, request.amount, holder.clone()))
        };
        let (_, number, amount, holder) = self.accounts.iter().filter_map(first).min()?;
        if !self.has_room(&holder, amount) {
            return None;
        }
        let request = self.dequeue(&holder, number)?;
        Some((holder, request))
    }

    /// Drops the requests for more permits than there are, which the pool has once had: they would hold up all others.
    /// Those who wait for them learn it by their call, which is dropped, too.
    pub(crate) fn drop_oversized(&mut self) {
        let max = self.size.max();
        let oversized = |(holder, account): (&Holder, &Account)| {
            let numbers = account.waiting.iter().filter(|(_, request)| request.amount > max);
            numbers.map(|(number, _)| (holder.clone(), *number)).collect::<Vec<_>>()
        };
        let oversized: Vec<_> = self.accounts.iter().flat_map(oversized).collect();
        for (holder, number) in oversized {
            drop(self.dequeue(&holder, number));
        }
    }

    /// Counts the holder as a contender until `until`: its client was told to come back, and must find its share then.
    pub(crate) fn note_refusal(&mut self, holder: &Holder, until: Duration) {
        let room = self.refused.len() < MAX_REFUSED;
        let known = self.with_account(holder, |account| match &mut account.refused_until {
            Some(before) => {
                *before = until;
                true
            }
            unknown => {
                *unknown = room.then_some(until);
                false
            }
        });
        if !known && room {
            self.refused.push_back((until, holder.clone()));
        }
    }

    /// Forgets refusals that no longer count.
    pub(crate) fn forget_refusals(&mut self, now: Duration) {
        while let Some((look_at, _)) = self.refused.front()
            && *look_at <= now
            && let Some((_, holder)) = self.refused.pop_front()
        {
            let later = self.with_account(&holder, |account| {
                account.refused_until = account.refused_until.filter(|until| *until > now);
                account.refused_until
            });
            if let Some(until) = later {
                self.refused.push_back((until, holder));
            }
        }
    }

    /// The reason why a request is refused. A share that is all permits is no reason: the pool is full then.
    pub(crate) fn why(&self, holder: &Holder, amount: usize) -> Refused {
        let contenders = self.contenders_with(holder);
        let within = self.within_share(self.held_by(holder), amount, contenders);
        let is_part = share(self.size.get(), self.reserve, contenders) < self.size.get();
        let share = !within && is_part && amount <= self.size.max();
        if share { Refused::Share } else { Refused::Full }
    }
}

impl Account {
    /// Whether the holder takes part in sharing: it waits, or was refused a moment ago.
    fn contends(&self) -> bool {
        !self.waiting.is_empty() || self.refused_until.is_some()
    }
}
