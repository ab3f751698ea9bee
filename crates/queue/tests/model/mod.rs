//! Draws histories for the reference model and runs them on a store. Included by the tests of each store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FailurePersistence, FileFailurePersistence, TestCaseError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;
use verbatim_queue::conformance::Harness;
use verbatim_queue::conformance::model::{Limits, Model, Op, TENANTS, WORKERS, Work, replay};
use verbatim_queue::conformance::service::{Cluster, Load, Origin, keeps_to_it};

/// Where the seeds of histories that failed are kept: they are drawn first from then on. To be committed with the cure.
const HISTORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/failed_histories.txt");

/// The same for loads under which somebody waited for too long.
const LOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/failed_loads.txt");

/// So many cases, after those that have failed before.
pub(crate) fn remembering(cases: u32, failed: &'static str) -> Config {
    let failure_persistence: Option<Box<dyn FailurePersistence>> =
        Some(Box::new(FileFailurePersistence::Direct(failed)));
    Config { cases, failure_persistence, ..Config::default() }
}

struct Histories;

fn caps() -> impl Strategy<Value = TenantCaps> {
    (prop::option::of(0_u64..4), prop::option::weighted(0.3, 1_u64..5))
        .prop_map(|(max_running, max_queued)| TenantCaps { max_running, max_queued })
}

fn work() -> impl Strategy<Value = Op> {
    let deadline = prop::option::weighted(0.2, 1_u16..120);
    let key = prop::option::weighted(0.4, 0_u8..2);
    (0..TENANTS.len(), 0_u8..6, 0_usize..3, 0_u64..60, caps(), deadline, key).prop_map(
        |(tenant, work, tier, secs, caps, deadline, key)| {
            Op::Submit(Work { tenant, work, tier, secs, caps, deadline, key })
        },
    )
}

/// More often than not lifted, so that jobs go on.
fn set_caps() -> impl Strategy<Value = Op> {
    let caps = prop_oneof![2 => Just(TenantCaps::default()), 1 => caps()];
    (0..TENANTS.len(), caps).prop_map(|(tenant, caps)| Op::SetCaps { tenant, caps })
}

fn limits() -> impl Strategy<Value = Limits> {
    let of_all = prop::option::weighted(0.3, 1_u64..14);
    (prop::option::weighted(0.4, 1_u64..6), prop::option::weighted(0.3, 2_u64..8), of_all).prop_map(
        |(max_waiting, max_remembered, max_remembered_of_all)| Limits {
            max_waiting,
            max_remembered,
            max_remembered_of_all,
        },
    )
}

fn report(lease: BoxedStrategy<usize>) -> impl Strategy<Value = Op> {
    let checkpoint = prop::option::weighted(0.4, 1_u16..90);
    (lease, 0_u8..3, 0_u8..4, prop::option::of(0_u8..=100), checkpoint).prop_map(
        |(lease, again, more, percent, checkpoint)| Op::Report { lease, again, more, percent, checkpoint },
    )
}

fn use_of(lease: BoxedStrategy<usize>) -> impl Strategy<Value = Op> {
    let kinds = select(vec![FailureKind::EngineFailed, FailureKind::BadAudio, FailureKind::Throttled]);
    prop_oneof![
        3 => (lease.clone(), 1_u16..90).prop_map(|(lease, secs)| Op::Complete { lease, secs }),
        2 => (lease.clone(), kinds).prop_map(|(lease, kind)| Op::Fail { lease, kind }),
        2 => lease.clone().prop_map(|lease| Op::Release { lease }),
        3 => report(lease.clone()),
        2 => lease.prop_map(|lease| Op::Renew { lease }),
    ]
}

impl ReferenceStateMachine for Histories {
    type State = Model;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Model> {
        limits().prop_map(Model::within).boxed()
    }

    fn transitions(state: &Model) -> BoxedStrategy<Op> {
        let (tickets, jobs, leases) = state.made();
        let claim = (0..WORKERS, prop::bool::weighted(0.8))
            .prop_map(|(worker, says_idle)| Op::Claim { worker, says_idle });
        let mut steps = vec![
            (6, work().boxed()),
            (10, claim.boxed()),
            (1, set_caps().boxed()),
            (2, (0_u16..40).prop_map(|secs| Op::Wait { secs }).boxed()),
            (3, (0_u16..60).prop_map(|secs| Op::Pass { secs }).boxed()),
            (3, Just(Op::Upkeep).boxed()),
        ];
        let again: Vec<_> =
            (0..WORKERS).map(|worker| Op::ClaimAgain { worker }).filter(|op| state.allows(op)).collect();
        if !again.is_empty() {
            steps.push((1, select(again).boxed()));
        }
        let held = state.held();
        if !held.is_empty() {
            steps.push((8, use_of(select(held).boxed()).boxed()));
        }
        if leases > 0 {
            steps.push((2, use_of((0..leases).boxed()).boxed()));
        }
        if jobs > 0 {
            steps.push((2, (0..jobs).prop_map(|job| Op::Redrive { job }).boxed()));
            steps.push((1, (0..jobs).prop_map(|job| Op::Discard { job }).boxed()));
        }
        if tickets > 0 {
            steps.push((1, (0..tickets).prop_map(|ticket| Op::Cancel { ticket }).boxed()));
            steps.push((3, (0..tickets).prop_map(|ticket| Op::Watch { ticket }).boxed()));
            steps.push((1, (0..tickets).prop_map(|ticket| Op::Delete { ticket }).boxed()));
        }
        let there: Vec<_> = (0..tickets)
            .filter(|ticket| state.allows(&Op::Resubmit { ticket: *ticket, caps: TenantCaps::default() }))
            .collect();
        if !there.is_empty() {
            steps.push((
                1,
                (select(there), caps()).prop_map(|(ticket, caps)| Op::Resubmit { ticket, caps }).boxed(),
            ));
        }
        prop::strategy::Union::new_weighted(steps).boxed()
    }

    fn apply(mut state: Model, step: &Op) -> Model {
        state.apply(step);
        state
    }

    fn preconditions(state: &Model, step: &Op) -> bool {
        state.allows(step)
    }
}

fn origin() -> impl Strategy<Value = Origin> {
    (0_u64..3, select(Priority::ALL.to_vec()))
}

fn load() -> impl Strategy<Value = Load> {
    let isolated = prop::collection::vec(origin(), 0..4);
    let backlog = prop::collection::vec(origin(), 1..12);
    (1_u64..6, 1_u64..4, isolated, backlog).prop_map(|(workers, slots, isolated, backlog)| Load {
        cluster: Cluster { workers, slots, tenants: 3 },
        isolated,
        backlog,
        claims: 250,
        job: Duration::from_secs(60),
    })
}

/// In any busy cluster no job waits longer than stated.
pub(crate) fn serves_everybody<H: Harness>(cases: u32, fresh: impl Fn() -> H) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let drawn = TestRunner::new(remembering(cases, LOADS)).run(&load(), |load| {
        let verdict = runtime.block_on(keeps_to_it(&fresh(), &load));
        verdict.map(drop).map_err(|violation| TestCaseError::fail(violation.to_string()))
    });
    if let Err(failure) = drawn {
        panic!("{failure}");
    }
}

/// Any history agrees with the model, on a fresh store for each.
pub(crate) fn agrees<H: Harness>(cases: u32, fresh: impl Fn() -> H) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let config = remembering(cases, HISTORIES);
    let drawn =
        TestRunner::new(config).run(&Histories::sequential_strategy(1..120), |(model, steps, seen)| {
            let count = || {
                if let Some(seen) = &seen {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            };
            let verdict = runtime.block_on(replay(&fresh(), model, &steps, count));
            verdict.map_err(|violation| TestCaseError::fail(violation.to_string()))
        });
    if let Err(failure) = drawn {
        panic!("{failure}");
    }
}
