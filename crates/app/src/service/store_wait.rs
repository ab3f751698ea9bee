//! A node waits for its stores at the start, so that the nodes of a cluster may start in any order and during an outage, and a
//! supervisor that counts restarts does not give up.

use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::{ErrorKind, PortError};

use crate::gate::Gate;

/// The pause before a store is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// The time between two lines of the log that say that the node still waits.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// The wait for the stores at the start of a node.
pub(super) struct StoreWait<'g> {
    /// The end of the wait; a store is tried once even when it has passed.
    pub(super) until: Instant,
    /// The gate that answers requests meanwhile.
    pub(super) gate: &'g Gate,
}

impl StoreWait<'_> {
    /// Opens a store: tries again while it is away, and ends at once when waiting would not help. `reason` says what an
    /// error means, in words that any client may read.
    ///
    /// # Errors
    /// The last one met.
    pub(super) async fn open<T>(
        &self,
        reason: impl Fn(&PortError) -> &'static str,
        open: impl AsyncFn() -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut said: Option<Instant> = None;
        loop {
            let error = match open().await {
                Ok(store) => {
                    if said.is_some() {
                        tracing::info!("what was waited for is there");
                    }
                    self.gate.waits_for(None);
                    return Ok(store);
                }
                Err(error) => error,
            };
            let now = Instant::now();
            if error.kind() != ErrorKind::Unavailable || now >= self.until {
                return Err(error);
            }
            let reason = reason(&error);
            if said.is_none_or(|said| now.duration_since(said) >= SAY_AGAIN) {
                let seconds_left = self.until.duration_since(now).as_secs();
                tracing::warn!(%error, cause = cause(&error), seconds_left, "waiting: {reason}");
                said = Some(now);
            }
            self.gate.waits_for(Some(reason));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The cause for the log; the error itself only says what it means.
fn cause(error: &PortError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Opens after some failures of this kind; returns how often it was tried, and how it ended.
    async fn tried(kind: ErrorKind, failures: u32, wait: u64) -> (u32, Result<(), ErrorKind>) {
        let (gate, tries) = (Gate::default(), AtomicU32::new(0));
        let wait = StoreWait { until: Instant::now() + Duration::from_secs(wait), gate: &gate };
        let opened = wait.open(
            |_| "the store is away",
            async || {
                if tries.fetch_add(1, Ordering::Relaxed) < failures {
                    Err(PortError::new(kind, "away"))
                } else {
                    Ok(())
                }
            },
        );
        let ended = opened.await.map_err(|error| error.kind());
        (tries.into_inner(), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_waited_for_as_long_as_was_said() {
        assert_eq!(tried(ErrorKind::Unavailable, 7, 60).await, (8, Ok(())));
        assert_eq!(tried(ErrorKind::Unavailable, u32::MAX, 60).await, (121, Err(ErrorKind::Unavailable)));
        assert_eq!(tried(ErrorKind::Unavailable, u32::MAX, 0).await, (1, Err(ErrorKind::Unavailable)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waiting_does_not_cure_ends_at_once() {
        for kind in [ErrorKind::Invalid, ErrorKind::Internal, ErrorKind::NotFound] {
            assert_eq!(tried(kind, 1, 60).await, (1, Err(kind)));
        }
    }
}
