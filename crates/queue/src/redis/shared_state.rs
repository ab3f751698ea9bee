//! Small values that all nodes share: a hash each, and an index of their names.

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::time::Timestamp;

use super::{RedisStore, millis, scripts};

#[async_trait]
impl SharedState for RedisStore {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        let mut call = self.0.wire.call(&scripts::READ_VALUE);
        call.arg(name);
        let (now, version, value): (i64, Option<u64>, Option<String>) = self.0.wire.link.run(&call).await?;
        let current = version.zip(value).map(|(version, value)| Versioned { version, value });
        Ok(Reading { current, now: Timestamp::from_millis(now) })
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        let Replacement { expected, value, ttl } = replacement;
        let expected = expected.map(|version| version.to_string()).unwrap_or_default();
        let mut call = self.0.wire.call(&scripts::REPLACE_VALUE);
        call.arg(name).arg(expected).arg(value).arg(millis(ttl));
        let replaced: u8 = self.0.wire.link.run(&call).await?;
        Ok(replaced == 1)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        let mut call = self.0.wire.call(&scripts::LIST_VALUES);
        call.arg(prefix);
        self.0.wire.link.run(&call).await
    }
}
