//! What nodes share, in memory: values, books, request limits, workers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use verbatim_core::ids::{JobId, TenantId, WorkerId};
use verbatim_core::ports::ledger::{Charge, Day, DayTotal, EntryId, Reservation, Reserved};
use verbatim_core::ports::limiter::{Admission, LimitUse, RequestLimits};
use verbatim_core::ports::registry::EngineOffer;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::ports::{EngineRegistry, Ledger, Limiter, SharedState};
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};

use super::Noon;

fn down(down: &AtomicBool) -> Result<(), PortError> {
    if down.load(Ordering::Relaxed) {
        return Err(PortError::new(ErrorKind::Unavailable, "the store is down, and why is secret"));
    }
    Ok(())
}

/// Values in memory that never expire.
#[derive(Default)]
pub(crate) struct Values {
    values: Mutex<BTreeMap<String, Versioned>>,
    pub(crate) down: AtomicBool,
}

#[async_trait]
impl SharedState for Values {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        down(&self.down)?;
        Ok(Reading { current: self.values.lock().unwrap().get(name).cloned(), now: Noon.now() })
    }

    async fn replace(&self, name: &str, new: Replacement) -> Result<bool, PortError> {
        down(&self.down)?;
        let mut values = self.values.lock().unwrap();
        let current = values.get(name).map(|value| value.version);
        if current != new.expected {
            return Ok(false);
        }
        let version = current.unwrap_or(0) + 1;
        values.insert(name.to_owned(), Versioned { version, value: new.value });
        Ok(true)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        down(&self.down)?;
        let values = self.values.lock().unwrap();
        let wanted = values.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(wanted.map(|(name, value)| (name.clone(), value.value.clone())).collect())
    }
}

/// Books that were written beforehand.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) totals: Mutex<Vec<DayTotal>>,
    pub(crate) down: AtomicBool,
}

#[async_trait]
impl Ledger for Books {
    async fn reserve(&self, _: Reservation) -> Result<Reserved, PortError> {
        unreachable!("the API spends nothing")
    }
    async fn cancel(&self, _: &EntryId) -> Result<(), PortError> {
        unreachable!("the API spends nothing")
    }
    async fn charge(&self, _: Charge) -> Result<(), PortError> {
        unreachable!("the API spends nothing")
    }
    async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        down(&self.down)?;
        let totals = self.totals.lock().unwrap();
        Ok(totals.iter().filter(|total| (from..=to).contains(&total.day)).cloned().collect())
    }
    async fn of_job(&self, _: &JobId) -> Result<Vec<Charge>, PortError> {
        unreachable!("the API does not ask for single jobs")
    }
}

/// Answers as it was told, and remembers who asked.
#[derive(Default)]
pub(crate) struct Doorman {
    pub(crate) answer: Mutex<Option<Admission>>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) usage: Mutex<LimitUse>,
    pub(crate) down: AtomicBool,
    pub(crate) hangs: AtomicBool,
}

#[async_trait]
impl Limiter for Doorman {
    async fn admit(&self, tenant: &TenantId, _: &RequestLimits) -> Result<Option<Admission>, PortError> {
        self.asked.lock().unwrap().push(tenant.to_string());
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        down(&self.down)?;
        Ok(*self.answer.lock().unwrap())
    }

    async fn usage(&self, _: &RequestLimits) -> Result<LimitUse, PortError> {
        down(&self.down)?;
        Ok(self.usage.lock().unwrap().clone())
    }
}

/// Workers that announced themselves.
#[derive(Default)]
pub(crate) struct Offers(pub(crate) Mutex<Vec<EngineOffer>>);

#[async_trait]
impl EngineRegistry for Offers {
    async fn announce(&self, offer: EngineOffer) -> Result<(), PortError> {
        self.0.lock().unwrap().push(offer);
        Ok(())
    }
    async fn leave(&self, _: &WorkerId) -> Result<(), PortError> {
        Ok(())
    }
    async fn withdraw(&self, worker: &WorkerId) -> Result<(), PortError> {
        self.0.lock().unwrap().retain(|offer| offer.worker != *worker);
        Ok(())
    }
    async fn offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        Ok(self.0.lock().unwrap().clone())
    }
    async fn distinct_offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        self.offers().await
    }
}
