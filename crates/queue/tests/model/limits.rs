//! Draws requests at random times and runs them on a store and on the model of limits.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use verbatim_core::ports::limiter::{ProjectLimit, RequestLimits};
use verbatim_queue::conformance::Harness;
use verbatim_queue::conformance::limiter::{Request, replay};

fn project() -> impl Strategy<Value = ProjectLimit> {
    let cooldown = prop_oneof![Just(0), 1_u64..8000].prop_map(Duration::from_millis);
    (1_u64..30, 1_u64..2000, 1_u64..12, cooldown).prop_map(
        |(capacity, refill_per_minute, burst, cooldown)| ProjectLimit {
            capacity,
            refill_per_minute,
            burst,
            cooldown,
        },
    )
}

fn limits() -> impl Strategy<Value = RequestLimits> {
    prop_oneof![
        (1_u64..12).prop_map(|limit| RequestLimits { tenant_per_minute: Some(limit), project: None }),
        project().prop_map(|limit| RequestLimits { tenant_per_minute: None, project: Some(limit) }),
        (1_u64..12, project()).prop_map(|(limit, project)| RequestLimits {
            tenant_per_minute: Some(limit),
            project: Some(project)
        }),
    ]
}

/// Bursts, trickles, and long silences.
/// As for histories.
const REQUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/failed_requests.txt");

fn request() -> impl Strategy<Value = Request> {
    let after = prop_oneof![4 => Just(0), 4 => 0_u64..50, 3 => 0_u64..3000, 2 => 0_u64..30_000, 1 => 59_990_u64..60_010];
    (after, 0_usize..3).prop_map(|(after, tenant)| Request { after, tenant })
}

/// Any requests under any limits.
pub(crate) fn agree<H: Harness>(cases: u32, fresh: impl Fn() -> H) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let config = super::model::remembering(cases, REQUESTS);
    let drawn = TestRunner::new(config).run(
        &(limits(), prop::collection::vec(request(), 1..150)),
        |(limits, requests)| {
            let verdict = runtime.block_on(replay(&fresh(), limits, &requests));
            verdict.map_err(|violation| TestCaseError::fail(violation.to_string()))
        },
    );
    if let Err(failure) = drawn {
        panic!("{failure}");
    }
}
