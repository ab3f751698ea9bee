//! What work costs, and how much may still be spent. Days are UTC.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::PortError;
use crate::ids::{Fence, JobId, TenantId};
use crate::money::Money;
use crate::time::Timestamp;

/// A day since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(i64);

impl Day {
    /// The day of this point in time.
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_millis().div_euclid(86_400_000))
    }

    /// The day of this number.
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Days since 1 January 1970.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The day `days` earlier.
    #[must_use]
    pub fn earlier(self, days: u32) -> Self {
        Self(self.0 - i64::from(days))
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp::from_millis(self.0 * 86_400_000)
    }
}

/// Names one entry in the books: what one lease on a job let one provider do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The job.
    pub job_id: JobId,
    /// The lease under which it was worked on: another attempt is billed again by the provider.
    pub fence: Fence,
    /// Name of the provider; holds no control characters.
    pub provider: String,
}

/// How much may be spent in a day; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budgets {
    /// On this provider, by all tenants.
    pub provider: Option<Money>,
    /// By this tenant, on all providers.
    pub tenant: Option<Money>,
}

/// Money put aside for work that is about to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    /// For which work.
    pub entry: EntryId,
    /// Whose job it is.
    pub tenant: TenantId,
    /// What it will cost.
    pub cost: Money,
    /// What may be spent today.
    pub budgets: Budgets,
    /// When it is given back if nobody charges or cancels it: the worker may have died.
    pub ttl: Duration,
}

/// Whether money could be put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// It is.
    Granted,
    /// Spent and reserved together would exceed the provider's budget of today.
    OverProviderBudget,
    /// They would exceed the tenant's.
    OverTenantBudget,
}

/// Work that a provider did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    /// Which work. Charging it again changes nothing.
    pub entry: EntryId,
    /// Whose job it is.
    pub tenant: TenantId,
    /// Milliseconds of audio billed.
    pub billed_ms: u64,
    /// What it cost; `None` when no price is configured.
    pub cost: Option<Money>,
}

/// What one provider did for one tenant on one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DayTotal {
    /// Which day.
    pub day: Day,
    /// Name of the provider.
    pub provider: String,
    /// Whose jobs.
    pub tenant: TenantId,
    /// Charges.
    pub jobs: u64,
    /// Milliseconds of audio billed.
    pub billed_ms: u64,
    /// Of these, milliseconds for which no price is known.
    pub unpriced_ms: u64,
    /// What it cost, as far as prices are known.
    pub cost: Money,
}

/// Keeps the books. Days are kept for 400 days, the charges of single jobs for as long as the job may be charged again: twice
/// its greatest age and the retention between, at most 30 days.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Puts money aside for one piece of work, if today's budgets allow it: what was charged today and what is reserved
    /// counts. Reserving again for the same entry replaces the first, which is given back also when the second is
    /// refused; for an entry that was charged already nothing is put aside. What earlier leases put aside for the same job
    /// is given back as well: whoever held them is gone, or charges what it did. A budget that is not used up lets a job
    /// begin only when the whole job fits.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, PortError>;

    /// Gives back what was reserved and not charged; nothing when there is nothing.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn cancel(&self, entry: &EntryId) -> Result<(), PortError>;

    /// Records work that was done and ends its reservation, if there is one, and those of earlier leases on the job; also
    /// when it exceeds a budget: the provider has done it. It counts on the day of this call.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn charge(&self, charge: Charge) -> Result<(), PortError>;

    /// The totals of all days from `from` to `to`, both included, in order of day, provider and tenant.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError>;

    /// What was charged for one job, in order of fence and provider.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn of_job(&self, job_id: &JobId) -> Result<Vec<Charge>, PortError>;
}
