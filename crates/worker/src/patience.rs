//! Patience with storage that is down: what a worker has in hand is worth more than its slot, for a while.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::ids::IdSource;
use verbatim_core::{CancellationToken, PortError};

use crate::backoff::Backoff;
use crate::finish::may_pass;

/// How long, and until when, something is tried again.
pub(crate) struct Patience<'a> {
    pub(crate) ids: &'a Arc<dyn IdSource>,
    pub(crate) limit: Duration,
    /// Nobody waits any more.
    pub(crate) cancel: &'a CancellationToken,
    /// Whether somebody else had better try.
    pub(crate) give_up: &'a (dyn Fn() -> bool + Sync),
}

impl Patience<'_> {
    /// Does `work`, again and again while it fails for a reason that may pass.
    ///
    /// # Errors
    /// The last one, when it will not pass, patience is at its end, somebody else had better try, or `cancel` has fired.
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
