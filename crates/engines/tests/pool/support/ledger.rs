//! The books in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use verbatim_core::ids::JobId;
use verbatim_core::money::Money;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::ledger::{Charge, Day, DayTotal, EntryId, Reservation, Reserved};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

use super::WorldClock;

pub(crate) struct MemoryLedger {
    clock: WorldClock,
    books: Mutex<Books>,
    /// Whether it does not answer.
    pub(crate) down: AtomicBool,
}

trait Replaced {
    /// Whether a reservation for this goes when something is put aside or charged for `newer`.
    fn is_replaced_by(&self, newer: &EntryId) -> bool;
}

impl Replaced for EntryId {
    fn is_replaced_by(&self, newer: &EntryId) -> bool {
        self == newer || (self.job_id == newer.job_id && self.fence < newer.fence)
    }
}

#[derive(Default)]
struct Books {
    reserved: Vec<(Reservation, Timestamp)>,
    charged: Vec<(Charge, Day)>,
}

impl MemoryLedger {
    pub(crate) fn new(clock: WorldClock) -> Self {
        Self { clock, books: Mutex::default(), down: AtomicBool::new(false) }
    }

    pub(crate) fn charges(&self) -> Vec<Charge> {
        self.books.lock().expect("no panic").charged.iter().map(|(charge, _)| charge.clone()).collect()
    }

    /// Money put aside and neither charged nor given back.
    pub(crate) fn reserved(&self) -> usize {
        self.books.lock().expect("no panic").reserved.len()
    }

    fn open(&self) -> Result<std::sync::MutexGuard<'_, Books>, PortError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "the ledger is down"));
        }
        let mut books = self.books.lock().expect("no panic");
        let now = self.clock.now();
        books.reserved.retain(|(_, until)| now < *until);
        Ok(books)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, PortError> {
        let mut books = self.open()?;
        let (now, today) = (self.clock.now(), Day::of(self.clock.now()));
        books.reserved.retain(|(other, _)| !other.entry.is_replaced_by(&reservation.entry));
        let spent = |pick: &dyn Fn(&EntryId, &str) -> bool| -> Money {
            let charged = books
                .charged
                .iter()
                .filter(|(charge, day)| *day == today && pick(&charge.entry, charge.tenant.as_str()));
            let reserved =
                books.reserved.iter().filter(|(other, _)| pick(&other.entry, other.tenant.as_str()));
            charged.filter_map(|(charge, _)| charge.cost).sum::<Money>()
                + reserved.map(|(other, _)| other.cost).sum::<Money>()
        };
        let over =
            |budget: Option<Money>, spent: Money| budget.is_some_and(|most| spent + reservation.cost > most);
        let by_provider = spent(&|entry, _| entry.provider == reservation.entry.provider);
        let by_tenant = spent(&|_, tenant| tenant == reservation.tenant.as_str());
        if over(reservation.budgets.provider, by_provider) {
            return Ok(Reserved::OverProviderBudget);
        }
        if over(reservation.budgets.tenant, by_tenant) {
            return Ok(Reserved::OverTenantBudget);
        }
        let until = now.plus(reservation.ttl);
        books.reserved.push((reservation, until));
        Ok(Reserved::Granted)
    }

    async fn cancel(&self, entry: &EntryId) -> Result<(), PortError> {
        self.open()?.reserved.retain(|(other, _)| other.entry != *entry);
        Ok(())
    }

    async fn charge(&self, charge: Charge) -> Result<(), PortError> {
        let mut books = self.open()?;
        books.reserved.retain(|(other, _)| !other.entry.is_replaced_by(&charge.entry));
        if books.charged.iter().all(|(other, _)| other.entry != charge.entry) {
            books.charged.push((charge, Day::of(self.clock.now())));
        }
        Ok(())
    }

    async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        let books = self.open()?;
        let each = books.charged.iter().filter(|(_, day)| from <= *day && *day <= to);
        Ok(each
            .map(|(charge, day)| DayTotal {
                day: *day,
                provider: charge.entry.provider.clone(),
                tenant: charge.tenant.clone(),
                jobs: 1,
                billed_ms: charge.billed_ms,
                unpriced_ms: if charge.cost.is_none() { charge.billed_ms } else { 0 },
                cost: charge.cost.unwrap_or_default(),
            })
            .collect())
    }

    async fn of_job(&self, job_id: &JobId) -> Result<Vec<Charge>, PortError> {
        let charges = self.charges().into_iter();
        Ok(charges.filter(|charge| charge.entry.job_id == *job_id).collect())
    }
}
