//! The shared state in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

use super::WorldClock;

pub(crate) struct MemoryState {
    clock: WorldClock,
    cells: Mutex<Cells>,
    /// Whether it does not answer.
    pub(crate) down: AtomicBool,
}

#[derive(Default)]
struct Cells {
    versions: u64,
    values: BTreeMap<String, (Versioned, Timestamp)>,
}

impl MemoryState {
    pub(crate) fn new(clock: WorldClock) -> Self {
        Self { clock, cells: Mutex::default(), down: AtomicBool::new(false) }
    }

    async fn answer<T>(&self, with: impl FnOnce(&mut Cells, Timestamp) -> T + Send) -> Result<T, PortError> {
        // Others may be quicker.
        tokio::task::yield_now().await;
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "the store is down"));
        }
        let now = self.clock.now();
        let mut cells = self.cells.lock().expect("no panic");
        cells.values.retain(|_, (_, until)| now < *until);
        Ok(with(&mut cells, now))
    }
}

#[async_trait]
impl SharedState for MemoryState {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        self.answer(|cells, now| Reading {
            current: cells.values.get(name).map(|(value, _)| value.clone()),
            now,
        })
        .await
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        self.answer(|cells, now| {
            let Replacement { expected, value, ttl } = replacement;
            if cells.values.get(name).map(|(value, _)| value.version) != expected {
                return false;
            }
            cells.versions += 1;
            let value = Versioned { version: cells.versions, value };
            cells.values.insert(name.to_owned(), (value, now.plus(ttl)));
            true
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        self.answer(|cells, _| {
            let named = cells.values.iter().filter(|(name, _)| name.starts_with(prefix));
            named.map(|(name, (value, _))| (name.clone(), value.value.clone())).collect()
        })
        .await
    }
}
