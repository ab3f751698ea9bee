//! Waits that double, with full jitter.

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::ids::IdSource;

/// The waits between repeated calls.
pub(crate) struct Backoff {
    ids: Arc<dyn IdSource>,
    range: Duration,
    max: Duration,
}

impl Backoff {
    /// The first wait is drawn from zero to `first`; the range doubles up to `max`.
    pub(crate) fn new(ids: &Arc<dyn IdSource>, first: Duration, max: Duration) -> Self {
        Self { ids: Arc::clone(ids), range: first, max }
    }

    /// For a store that does not answer.
    pub(crate) fn for_store(ids: &Arc<dyn IdSource>) -> Self {
        Self::new(ids, Duration::from_millis(200), Duration::from_secs(10))
    }

    /// How long to wait now. At least a twentieth of the range, so that a run of small draws is no busy loop.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.range.mul_f64(self.ids.fraction().clamp(0.05, 1.0));
        self.range = self.range.saturating_mul(2).min(self.max);
        wait
    }

    /// Waits.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}
