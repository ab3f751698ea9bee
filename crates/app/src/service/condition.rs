//! What this process knows of the job store of its cluster, in its metrics.

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::CancellationToken;
use verbatim_queue::RedisStore;
use verbatim_telemetry::Metrics;

/// How old a figure may be that changes without notice.
const REFRESH: Duration = Duration::from_secs(5);

/// Keeps the metrics up to date until `stop` fires.
pub(super) async fn follow(store: Arc<RedisStore>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut condition = store.condition();
    loop {
        let (replaced, slot_moves) = {
            let now = condition.borrow_and_update();
            (now.replaced, now.slot_moves)
        };
        metrics.link.set(store.connections_given_up(), replaced, slot_moves);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(REFRESH, condition.changed()) => {}
        }
    }
}
