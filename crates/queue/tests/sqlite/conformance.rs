//! The SQLite store against the suite that every store must pass, and against the reference model.

use crate::support::SqliteHarness;
use proptest::prelude::*;
use proptest::test_runner::Config;
use verbatim_queue::conformance::model::{Op, replay};

verbatim_queue::conformance_suite!(SqliteHarness::new());

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), any::<u8>()).prop_map(|(work, tier)| Op::Submit { work, tier }),
        6 => (any::<u8>(), 0_u8..4, any::<bool>()).prop_map(|(worker, max, says_idle)| Op::Claim { worker, max, says_idle }),
        3 => any::<u8>().prop_map(|lease| Op::Complete { lease }),
        3 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(lease, permanent)| Op::Fail { lease, permanent }),
        2 => any::<u8>().prop_map(|lease| Op::Release { lease }),
        3 => any::<u8>().prop_map(|lease| Op::Renew { lease }),
        2 => any::<u8>().prop_map(|submission| Op::Cancel { submission }),
        2 => any::<u8>().prop_map(|submission| Op::Delete { submission }),
        4 => (0_u16..60).prop_map(|secs| Op::Pass { secs }),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_history_agrees_with_the_model(ops in prop::collection::vec(op(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        let verdict = runtime.block_on(replay(&SqliteHarness::new(), &ops));
        prop_assert!(verdict.is_ok(), "{}", verdict.err().map(|violation| violation.to_string()).unwrap_or_default());
    }
}
