//! Retries of storage that is down: for a while, finished work is worth more than the slot that it keeps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::ids::IdSource;
use verbatim_core::{CancellationToken, PortError};

use crate::backoff::Backoff;
use crate::finish::may_pass;

/// The limits of the retries.
pub(crate) struct StorageRetry<'a> {
    pub(crate) ids: &'a Arc<dyn IdSource>,
    pub(crate) limit: Duration,
    /// Fires when the job is no longer wanted.
    pub(crate) cancel: &'a CancellationToken,
    /// Whether another worker is more likely to succeed.
    pub(crate) give_up: &'a (dyn Fn() -> bool + Sync),
}

impl StorageRetry<'_> {
    /// Runs `work`, with retries while it fails for a reason that may pass.
    ///
    /// # Errors
    /// The last error, when it will not pass, the time is up, another worker had better try, or `cancel` has fired.
    pub(crate) async fn with<T, W>(&self, what: &str, work: impl Fn() -> W) -> Result<T, PortError>
    where
        W: Future<Output = Result<T, PortError>>,
    {
        let begun = Instant::now();
        let mut backoff = Backoff::for_store(self.ids);
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !may_pass(&error) || begun.elapsed() >= self.limit || (self.give_up)() {
                return Err(error);
            }
            tracing::warn!(error = &error as &dyn std::error::Error, "{what} failed; trying again");
            tokio::select! {
                () = self.cancel.cancelled() => return Err(error),
                () = backoff.wait() => {}
            }
        }
    }
}
