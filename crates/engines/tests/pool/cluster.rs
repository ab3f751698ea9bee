//! Many workers and one subscription. `cargo run -p verbatim-engines --example provider_pool` prints the same.

use std::time::Duration;

use verbatim_core::provider::BreakerState;

use crate::support::over_http;
use crate::support::trial::{DOWN, JOBS, live_through_an_outage, meet_limits};

#[tokio::test(start_paused = true)]
async fn a_cluster_finds_the_limits_of_a_subscription_and_holds_them() {
    // The rate binds: 20 at once in a second each would be 20 a second.
    let rate = meet_limits(Duration::from_secs(1)).await;
    // Concurrency binds: 20 at once in four seconds each are 5 a second.
    let concurrency = meet_limits(Duration::from_secs(4)).await;
    for (binds, findings) in [("rate", rate), ("concurrency", concurrency)] {
        assert_eq!((findings.done, findings.failed), (JOBS, 0), "{binds}");
        assert!(findings.used() >= 0.9, "{binds}: {:.3} of what is allowed", findings.used());
        assert!(findings.refused <= 40, "{binds}: {} refused", findings.refused);
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_go_to_the_next_provider_while_one_is_down_and_come_back_after_it() {
    let outage = live_through_an_outage(true).await;
    assert_eq!(outage.failed, 0);
    let served = |place: usize, by: &str| outage.spans[place].served.get(by).copied().unwrap_or_default();
    assert!((1..DOWN.start).all(|place| served(place, "azure") >= 35 && served(place, "whisper") <= 5));
    let opened = DOWN.start + 1..DOWN.end;
    assert!(opened.clone().all(|place| served(place, "azure") == 0 && served(place, "whisper") >= 20));
    assert!(opened.clone().any(|place| outage.spans[place].breaker == BreakerState::Open));
    let last = outage.spans.len() - 3..outage.spans.len() - 1;
    assert!(last.clone().all(|place| served(place, "azure") >= 35 && served(place, "whisper") <= 5));
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_while_their_only_provider_is_down() {
    let outage = live_through_an_outage(false).await;
    assert_eq!(outage.failed, 0);
    let served: usize = outage.spans.iter().filter_map(|span| span.served.get("azure")).sum();
    assert_eq!(served, outage.spans.iter().take(24).count() * 40);
    assert!(outage.refunded > 0, "they went back to the queue unblamed");
}

#[tokio::test]
async fn a_cluster_shares_one_subscription_over_http() -> anyhow::Result<()> {
    let trial = over_http::Trial {
        jobs: 120,
        workers: 4,
        at_once: 6,
        per_minute: 600,
        minute: Duration::from_secs(6),
        latency: Duration::from_millis(50),
    };
    let done = over_http::meet_limits(trial).await?;
    assert_eq!((done.findings.done, done.findings.failed), (120, 0));
    assert_eq!(done.violations, Vec::<String>::new());
    assert_eq!(done.tokens, 1, "all workers share one");
    assert!(done.findings.refused <= 20, "{} refused", done.findings.refused);
    Ok(())
}
