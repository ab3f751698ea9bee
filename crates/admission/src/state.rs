//! Who holds and wants how much of a pool, and who is next: no clock, no lock, no waking.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::holder::Holder;
use crate::pool::{Permit, PoolConfig, PoolUse, Refused};
use crate::share::share;
use crate::sizing::{Load, Size};

/// The most holders of which it is remembered that they were refused: memory that strangers can fill.
const MAX_REFUSED: usize = 4096;

/// The books of a pool.
pub(crate) struct State {
    pub(crate) size: Size,
    held: usize,
    /// Permits that are waited for, and requests that wait for them.
    wanted: usize,
    requests: usize,
    accounts: HashMap<Holder, Account>,
    /// Accounts that wait or were refused lately.
    contenders: usize,
    /// Holders that were refused, by the time at which to look whether it still counts.
    refused: VecDeque<(Duration, Holder)>,
    next_ticket: u64,
}

/// What one holder has and wants.
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
    pub(crate) fn new(config: &PoolConfig) -> Self {
        Self {
            size: Size::new(config.sizing),
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

    /// Changes an account, and keeps count of the contenders. One that holds and wants nothing is forgotten.
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

    /// The number of contenders once `holder` is one of them.
    pub(crate) fn contenders_with(&self, holder: &Holder) -> usize {
        let counted = self.accounts.get(holder).is_some_and(Account::contends);
        self.contenders + usize::from(!counted)
    }

    pub(crate) fn line_up(&mut self, holder: &Holder, amount: usize, call: oneshot::Sender<Permit>) -> u64 {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.wanted += amount;
        self.requests += 1;
        self.with_account(holder, |account| account.waiting.insert(number, Request { amount, call }));
        number
    }

    pub(crate) fn leave_line(&mut self, holder: &Holder, number: u64) -> Option<Request> {
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

    fn held_by(&self, holder: &Holder) -> usize {
        self.accounts.get(holder).map_or(0, |account| account.held)
    }

    /// Whether a holder that has so much gets so much more, as far as its share goes. Nobody who has nothing is kept from a
    /// request that is larger than a share.
    fn within_share(&self, config: &PoolConfig, held: usize, amount: usize, contenders: usize) -> bool {
        held == 0 || held + amount <= share(self.size.get(), config.reserve, contenders)
    }

    fn has_room(&self, amount: usize) -> bool {
        self.size.get() > 0 && (self.held == 0 || self.held + amount <= self.size.get())
    }

    /// Whether one more request of the holder may wait. Places in the line are shared like permits.
    pub(crate) fn may_wait(&self, config: &PoolConfig, holder: &Holder) -> bool {
        let own = self.waiting_of(holder);
        own < share(config.max_waiting, config.reserve, self.contenders_with(holder))
            && self.requests < config.max_waiting
    }

    /// Whether a request would not have to wait.
    pub(crate) fn is_served_at_once(&self, config: &PoolConfig, holder: &Holder, amount: usize) -> bool {
        let contenders = self.contenders_with(holder);
        let within = self.within_share(config, self.held_by(holder), amount, contenders);
        within && self.requests == 0 && self.has_room(amount)
    }

    /// Whether somebody else waits.
    pub(crate) fn others_wait(&self, holder: &Holder) -> bool {
        self.requests > self.waiting_of(holder)
    }

    fn waiting_of(&self, holder: &Holder) -> usize {
        self.accounts.get(holder).map_or(0, |account| account.waiting.len())
    }

    /// The request that is served next: the first of whoever holds least, among holders that are within their share. While
    /// there is no room for it, nobody overtakes it.
    pub(crate) fn next(&mut self, config: &PoolConfig) -> Option<(Holder, Request)> {
        if self.requests == 0 {
            return None;
        }
        let first = |(holder, account): (&Holder, &Account)| {
            let (number, request) = account.waiting.first_key_value()?;
            let within = self.within_share(config, account.held, request.amount, self.contenders);
            within.then(|| (account.held, *number, request.amount, holder.clone()))
        };
        let (_, number, amount, holder) = self.accounts.iter().filter_map(first).min()?;
        if !self.has_room(amount) {
            return None;
        }
        let request = self.leave_line(&holder, number)?;
        Some((holder, request))
    }

    /// Counts the holder among the contenders until then: it was told to come back, and must find its share.
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

    /// What stands in the way of a request: a share only where it is less than everything.
    pub(crate) fn why(&self, config: &PoolConfig, holder: &Holder, amount: usize) -> Refused {
        let contenders = self.contenders_with(holder);
        let within = self.within_share(config, self.held_by(holder), amount, contenders);
        let is_part = share(self.size.get(), config.reserve, contenders) < self.size.get();
        if within || !is_part { Refused::Full } else { Refused::Share }
    }
}

impl Account {
    fn contends(&self) -> bool {
        !self.waiting.is_empty() || self.refused_until.is_some()
    }
}
