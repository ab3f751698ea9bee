//! A shared state in memory, which can be down and can keep a node waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

/// The last version given, and each value with its time of expiry.
type Values = (u64, BTreeMap<String, (Versioned, Timestamp)>);

/// The values.
pub(crate) struct SharedMemory {
    clock: Arc<dyn Clock>,
    values: Mutex<Values>,
    pub(crate) down: AtomicBool,
    pub(crate) calls: AtomicUsize,
}

impl SharedMemory {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let values = Mutex::new((0, BTreeMap::new()));
        Arc::new(Self { clock, values, down: AtomicBool::new(false), calls: AtomicUsize::new(0) })
    }

    fn check(&self) -> Result<(), PortError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "the store is down"));
        }
        Ok(())
    }
}

#[async_trait]
impl SharedState for SharedMemory {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        self.check()?;
        tokio::task::yield_now().await;
        let now = self.clock.now();
        let values = self.values.lock().expect("nobody panicked");
        let current = values.1.get(name).filter(|(_, until)| *until > now).map(|(value, _)| value.clone());
        Ok(Reading { current, now })
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        self.check()?;
        tokio::task::yield_now().await;
        let now = self.clock.now();
        let mut values = self.values.lock().expect("nobody panicked");
        let (last, values) = &mut *values;
        let version = values.get(name).filter(|(_, until)| *until > now).map(|(value, _)| value.version);
        if version != replacement.expected {
            return Ok(false);
        }
        *last += 1;
        let value = Versioned { version: *last, value: replacement.value };
        values.insert(name.to_owned(), (value, now.plus(replacement.ttl)));
        Ok(true)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        self.check()?;
        let values = self.values.lock().expect("nobody panicked");
        let named = values.1.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(name, (value, _))| (name.clone(), value.value.clone())).collect())
    }
}

/// The same values for a node whose `read` number `stalls_at` (from 1) takes a while, as if the node were frozen.
pub(crate) struct Stalling {
    pub(crate) inner: Arc<SharedMemory>,
    pub(crate) stalls_at: usize,
    pub(crate) stall: Duration,
    pub(crate) reads: AtomicUsize,
}

#[async_trait]
impl SharedState for Stalling {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) + 1 == self.stalls_at {
            tokio::time::sleep(self.stall).await;
        }
        self.inner.read(name).await
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        self.inner.replace(name, replacement).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        self.inner.list(prefix).await
    }
}
