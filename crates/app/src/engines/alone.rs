//! What nodes share, for a process that has nobody to share it with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::time::{Clock, Timestamp};

/// Keeps values in memory until the process ends.
pub struct Alone {
    clock: Arc<dyn Clock>,
    values: Mutex<Values>,
}

#[derive(Default)]
struct Values {
    changes: u64,
    by_name: BTreeMap<String, (Versioned, Timestamp)>,
}

impl Alone {
    /// Nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, values: Mutex::default() }
    }

    fn alive(&self, now: Timestamp) -> MutexGuard<'_, Values> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.by_name.retain(|_, (_, until)| *until > now);
        values
    }
}

#[async_trait]
impl SharedState for Alone {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        let now = self.clock.now();
        let current = self.alive(now).by_name.get(name).map(|(current, _)| current.clone());
        Ok(Reading { current, now })
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        let now = self.clock.now();
        let mut values = self.alive(now);
        if values.by_name.get(name).map(|(current, _)| current.version) != replacement.expected {
            return Ok(false);
        }
        values.changes += 1;
        let current = Versioned { version: values.changes, value: replacement.value };
        values.by_name.insert(name.to_owned(), (current, now.plus(replacement.ttl)));
        Ok(true)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        let values = self.alive(self.clock.now());
        let named = values.by_name.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(name, (current, _))| (name.clone(), current.value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use verbatim_core::ports::shared_state::update;

    use super::*;

    struct Stopped(Mutex<Timestamp>);

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test]
    async fn changes_add_up_and_what_is_old_is_forgotten() {
        let clock = Arc::new(Stopped(Mutex::new(Timestamp::from_millis(0))));
        let alone = Alone::new(clock.clone());
        let count = |alone| {
            update(alone, "count", Duration::from_secs(1), |count: &mut u64, _| {
                *count += 1;
                (true, *count)
            })
        };
        assert_eq!(count(&alone).await.unwrap(), 1);
        let stale = alone.read("count").await.unwrap().current.unwrap().version;
        assert_eq!(count(&alone).await.unwrap(), 2);
        let replacement =
            Replacement { expected: Some(stale), value: "9".to_owned(), ttl: Duration::from_secs(1) };
        assert!(!alone.replace("count", replacement).await.unwrap());
        assert_eq!(alone.list("co").await.unwrap(), [("count".to_owned(), "2".to_owned())]);
        *clock.0.lock().unwrap() = Timestamp::from_millis(1000);
        assert_eq!(count(&alone).await.unwrap(), 1);
    }
}
