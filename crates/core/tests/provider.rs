//! What holds for a provider's state whatever happens, and how it behaves over time against a simulated service.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use verbatim_core::provider::{
    BreakerState, Outcome, ProviderFacts, ProviderState, ProviderView, Rate, SlotDecision, SlotLimits,
    SlotRequest,
};
use verbatim_core::time::Timestamp;

const LEASE: Duration = Duration::from_secs(30);
const EPOCH: i64 = 1_700_000_000_000;

fn facts(max_concurrency: u32) -> ProviderFacts {
    ProviderFacts {
        kind: "azure".into(),
        local: false,
        priority: 1,
        weight: 1,
        max_concurrency,
        requests_per_minute: None,
        price_per_hour: None,
        daily_budget: None,
    }
}

/// A provider under test with a clock.
struct World {
    state: ProviderState,
    limits: SlotLimits,
    now: Timestamp,
}

impl World {
    fn new(max_concurrency: u32, rate: Option<Rate>) -> Self {
        let limits = SlotLimits { max_concurrency, rate };
        Self { state: ProviderState::default(), limits, now: Timestamp::from_millis(EPOCH) }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    fn acquire(&mut self, holder: &str) -> SlotDecision {
        let request = SlotRequest { holder: holder.to_owned(), lease: LEASE, limits: self.limits };
        self.state.acquire(self.now, &request)
    }

    fn release(&mut self, holder: &str, outcome: Outcome) -> bool {
        self.state.release(self.now, holder, outcome)
    }

    fn call(&mut self, outcome: Outcome) -> SlotDecision {
        let decision = self.acquire("one call");
        self.release("one call", outcome);
        decision
    }

    fn view(&self) -> ProviderView {
        self.state.view_as("p", self.now, &facts(self.limits.max_concurrency))
    }
}

const SUCCESS: Outcome = Outcome::Success { took: Duration::from_secs(1), audio: Duration::from_secs(10) };
const DOWN: Outcome = Outcome::Failed { unavailable: true, retry_after: None };
const FAILED: Outcome = Outcome::Failed { unavailable: false, retry_after: None };

fn throttled(retry_after: Option<u64>) -> Outcome {
    Outcome::Throttled { retry_after: retry_after.map(Duration::from_secs) }
}

fn when_to_ask_again(decision: SlotDecision) -> Option<Duration> {
    match decision {
        SlotDecision::Granted { .. } | SlotDecision::Paused => None,
        SlotDecision::Full { retry_after }
        | SlotDecision::RateLimited { retry_after }
        | SlotDecision::CoolingDown { retry_after }
        | SlotDecision::Open { retry_after } => Some(retry_after),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Acquire(u8),
    Renew(u8),
    Release(u8, Outcome),
    Pause(bool),
    Pass(u32),
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(SUCCESS),
        2 => proptest::option::of(0_u64..20).prop_map(throttled),
        2 => Just(FAILED),
        2 => Just(DOWN),
        1 => Just(Outcome::Neutral),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        // Holders that are never released or renewed are workers that died.
        6 => (0_u8..40).prop_map(Step::Acquire),
        1 => (0_u8..40).prop_map(Step::Renew),
        4 => (0_u8..40, outcomes()).prop_map(|(holder, outcome)| Step::Release(holder, outcome)),
        1 => any::<bool>().prop_map(Step::Pause),
        4 => (0_u32..15_000).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..300)
}

/// Runs the steps beside a naive model of who holds what, and says when slots were given.
fn run(world: &mut World, steps: &[Step]) -> Result<Vec<Timestamp>, TestCaseError> {
    let (mut model, mut given): (HashMap<u8, Timestamp>, Vec<Timestamp>) = (HashMap::new(), Vec::new());
    for step in steps {
        model.retain(|_, until| world.now < *until);
        match step {
            Step::Acquire(holder) => {
                let before = world.view();
                let decision = world.acquire(&holder.to_string());
                if matches!(decision, SlotDecision::Granted { .. }) {
                    if model.insert(*holder, world.now.plus(LEASE)).is_none() {
                        prop_assert!(before.in_use < before.concurrency_limit, "{before:?}");
                        prop_assert!(!before.paused && before.breaker != BreakerState::Open);
                        given.push(world.now);
                    }
                } else {
                    prop_assert!(!model.contains_key(holder), "who holds a slot keeps it: {decision:?}");
                }
            }
            Step::Renew(holder) => {
                let held = world.state.renew(world.now, &holder.to_string(), LEASE);
                prop_assert_eq!(held, model.contains_key(holder));
                if held {
                    model.insert(*holder, world.now.plus(LEASE));
                }
            }
            Step::Release(holder, outcome) => {
                let held = model.remove(holder).is_some();
                let released = world.release(&holder.to_string(), *outcome);
                prop_assert!(released || !held);
                prop_assert!(!world.release(&holder.to_string(), *outcome), "a second time changes nothing");
            }
            Step::Pause(paused) => {
                world.state.pause(*paused);
            }
            Step::Pass(millis) => world.pass(Duration::from_millis(u64::from(*millis))),
        }
        model.retain(|_, until| world.now < *until);
        let view = world.view();
        prop_assert_eq!(view.in_use as usize, model.len());
        prop_assert!(view.in_use <= world.limits.max_concurrency);
        prop_assert!((1..=world.limits.max_concurrency).contains(&view.concurrency_limit));
    }
    Ok(given)
}

proptest! {
    #[test]
    fn no_slot_is_lost_or_given_twice_and_the_limit_holds(max in 1_u32..40, steps in steps()) {
        run(&mut World::new(max, None), &steps)?;
    }

    #[test]
    fn no_minute_sees_more_calls_than_the_rate_allows(requests in 1_u32..60, steps in steps()) {
        let given = run(&mut World::new(40, Some(Rate::per_minute(requests))), &steps)?;
        for (first, begin) in given.iter().enumerate() {
            let within = given[first..].iter().take_while(|at| at.since(*begin) <= Duration::from_secs(60));
            prop_assert!(within.count() <= requests as usize);
        }
    }

    #[test]
    fn whatever_happened_a_provider_that_is_well_again_is_used_again(steps in steps()) {
        let mut world = World::new(10, Some(Rate::per_minute(60)));
        run(&mut world, &steps)?;
        world.state.pause(false);
        // Workers died with whatever they held.
        world.pass(LEASE);
        let mut successes = 0;
        for _ in 0..40 {
            match when_to_ask_again(world.call(SUCCESS)) {
                Some(wait) => world.pass(wait),
                None => successes += 1,
            }
        }
        prop_assert!(successes > 10, "only {successes}");
        prop_assert_eq!(world.view().breaker, BreakerState::Closed);
        prop_assert_eq!(world.view().in_use, 0);
    }

    #[test]
    fn a_state_survives_its_store(steps in steps()) {
        let mut world = World::new(10, Some(Rate::per_minute(60)));
        run(&mut world, &steps)?;
        let stored = serde_json::to_string(&world.state)?;
        prop_assert_eq!(serde_json::from_str::<ProviderState>(&stored)?, world.state);
    }
}

#[test]
fn the_breaker_opens_probes_and_closes() {
    let mut world = World::new(10, None);
    for _ in 0..2 {
        world.call(DOWN);
        assert_eq!(world.view().breaker, BreakerState::Closed);
    }
    world.call(DOWN);
    assert_eq!(world.view().breaker, BreakerState::Open);
    let SlotDecision::Open { retry_after } = world.acquire("x") else { panic!("it is open") };
    world.pass(retry_after);
    assert_eq!(world.view().breaker, BreakerState::HalfOpen);
    assert_eq!(world.acquire("probe 1"), SlotDecision::Granted { probe: true });
    assert_eq!(world.acquire("probe 2"), SlotDecision::Granted { probe: true });
    assert!(matches!(world.acquire("probe 3"), SlotDecision::Open { .. }), "a few probes, no more");
    world.release("probe 1", FAILED);
    assert_eq!(world.view().breaker, BreakerState::Open);
    assert!(world.view().open_secs > retry_after.as_secs_f64(), "longer than the first time");
    world.release("probe 2", SUCCESS);
    assert_eq!(world.view().breaker, BreakerState::Closed, "the other one got through");
    assert_eq!(world.acquire("x"), SlotDecision::Granted { probe: false });
}

#[test]
fn it_stays_open_longer_each_time_up_to_five_minutes() {
    let mut world = World::new(10, None);
    for _ in 0..3 {
        world.call(DOWN);
    }
    let mut times = Vec::new();
    for _ in 0..9 {
        let SlotDecision::Open { retry_after } = world.acquire("x") else { panic!("it is open") };
        times.push(retry_after.as_secs());
        world.pass(retry_after);
        world.call(DOWN);
    }
    assert_eq!(times, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn a_breaker_opens_on_half_of_the_calls_but_not_on_one_bad_file() {
    let mut world = World::new(10, None);
    for _ in 0..20 {
        world.call(FAILED);
        world.call(SUCCESS);
        world.call(SUCCESS);
    }
    assert_eq!(world.view().breaker, BreakerState::Closed, "a third fails");
    for _ in 0..25 {
        world.call(FAILED);
        world.call(SUCCESS);
    }
    world.pass(Duration::from_secs(20));
    for _ in 0..3 {
        world.call(SUCCESS);
        world.call(FAILED);
    }
    assert_eq!(world.view().breaker, BreakerState::Open, "half fail");
}

#[test]
fn answers_of_calls_from_before_an_outage_do_not_close_the_breaker() {
    let mut world = World::new(10, None);
    world.acquire("old");
    for _ in 0..3 {
        world.call(DOWN);
    }
    world.release("old", SUCCESS);
    assert_eq!(world.view().breaker, BreakerState::Open);
}

#[test]
fn who_was_told_to_wait_makes_all_wait() {
    let mut world = World::new(10, None);
    world.call(throttled(Some(7)));
    assert_eq!(world.acquire("x"), SlotDecision::CoolingDown { retry_after: Duration::from_secs(7) });
    world.pass(Duration::from_secs(7));
    assert!(matches!(world.acquire("x"), SlotDecision::Granted { .. }));
}

#[test]
fn a_pause_holds_until_it_is_lifted() {
    let mut world = World::new(10, None);
    world.acquire("running");
    assert!(world.state.pause(true));
    assert!(!world.state.pause(true), "it was paused already");
    assert_eq!(world.acquire("x"), SlotDecision::Paused);
    assert!(world.release("running", SUCCESS), "what runs goes on");
    world.state.pause(false);
    assert!(matches!(world.acquire("x"), SlotDecision::Granted { .. }));
}

/// A service that refuses more than `capacity` calls at once, and workers that always want to call it.
struct Simulation {
    world: World,
    latency_ms: i64,
    retry_after: Option<u64>,
    /// Calls under way: when they end, who, and whether they are refused.
    calls: Vec<(Timestamp, u64, bool)>,
    next: u64,
    refused: u64,
}

/// How long a service takes to refuse, and the time between two looks of the workers.
const TICK_MS: i64 = 50;

impl Simulation {
    fn new(max: u32, latency_ms: i64, retry_after: Option<u64>) -> Self {
        let world = World::new(max, None);
        Self { world, latency_ms, retry_after, calls: Vec::new(), next: 0, refused: 0 }
    }

    /// Goes on for so long, and says how many calls the service had under way on average.
    fn run(&mut self, capacity: usize, secs: i64) -> f64 {
        let (ticks, mut busy) = (secs * 1000 / TICK_MS, 0);
        for _ in 0..ticks {
            let now = self.world.now;
            let ended: Vec<_> = self.calls.extract_if(.., |call| call.0 <= now).collect();
            for (_, holder, refused) in ended {
                let outcome = if refused { throttled(self.retry_after) } else { SUCCESS };
                self.world.release(&holder.to_string(), outcome);
            }
            while matches!(self.world.acquire(&self.next.to_string()), SlotDecision::Granted { .. }) {
                let refused = self.calls.iter().filter(|call| !call.2).count() >= capacity;
                self.refused += u64::from(refused);
                // Calls do not all take the same time.
                let spread = self.latency_ms * i64::try_from(self.next % 7).unwrap_or(0) / 10;
                let takes = if refused { TICK_MS } else { self.latency_ms + spread };
                let ends = Timestamp::from_millis(now.as_millis() + takes);
                self.calls.push((ends, self.next, refused));
                self.next += 1;
            }
            for (_, holder, _) in &self.calls {
                self.world.state.renew(now, &holder.to_string(), LEASE);
            }
            busy += self.calls.iter().filter(|call| !call.2).count();
            self.world.pass(Duration::from_millis(TICK_MS.unsigned_abs()));
        }
        busy as f64 / ticks as f64
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_limit_of_a_service_is_found_and_held(
        capacity in 2_usize..80,
        room in 0_u32..100,
        latency_ms in 200_i64..10_000,
        retry_after in proptest::option::of(1_u64..10),
    ) {
        let max = u32::try_from(capacity)? + room;
        let mut simulation = Simulation::new(max, latency_ms, retry_after);
        simulation.run(capacity, 300);
        simulation.refused = 0;
        let (held, begun) = (simulation.run(capacity, 1200), simulation.next);
        prop_assert!(held >= 0.9 * capacity as f64, "{held:.1} of {capacity} at once");
        prop_assert!(simulation.refused * 50 < begun, "{} of {begun} refused", simulation.refused);
    }
}

#[test]
fn a_service_that_shrinks_and_grows_is_followed() {
    let mut simulation = Simulation::new(100, 1000, Some(2));
    simulation.run(40, 120);
    simulation.refused = 0;
    let shrunk = simulation.run(10, 300);
    assert!(shrunk >= 8.5, "{shrunk:.1} of 10");
    assert!(simulation.refused < 100, "{} refused on the way down", simulation.refused);
    simulation.run(40, 600);
    let grown = simulation.run(40, 300);
    assert!(grown >= 34.0, "{grown:.1} of 40");
}

#[test]
fn further_requests_count_like_the_first() {
    let mut world = World::new(10, Some(Rate::per_minute(60)));
    assert!(matches!(world.acquire("one"), SlotDecision::Granted { .. }));
    let second = Duration::from_millis(1001);
    let limits = world.limits;
    let too_soon = SlotDecision::RateLimited { retry_after: second };
    assert_eq!(world.state.another_request(world.now, limits), too_soon);
    world.pass(second);
    assert_eq!(world.state.another_request(world.now, limits), SlotDecision::Granted { probe: false });
    // Now they keep others waiting, as calls do.
    assert!(matches!(world.acquire("two"), SlotDecision::RateLimited { .. }));
    world.pass(second);
    assert_eq!(world.acquire("two"), SlotDecision::Granted { probe: false });
    world.release("two", throttled(Some(7)));
    let cooling = SlotDecision::CoolingDown { retry_after: Duration::from_secs(7) };
    assert_eq!(world.state.another_request(world.now, limits), cooling);
    world.state.pause(true);
    assert_eq!(world.state.another_request(world.now, limits), SlotDecision::Paused);
    assert_eq!(world.state.view_as("x", world.now, &facts(10)).requests_last_minute, 3);
}

#[test]
fn an_operator_who_resumes_a_provider_has_it_used_at_once() {
    let mut world = World::new(10, None);
    world.call(throttled(Some(3600)));
    assert!(matches!(world.acquire("one"), SlotDecision::CoolingDown { .. }));
    assert!(world.state.pause(true));
    assert_eq!(world.acquire("one"), SlotDecision::Paused);
    assert!(world.state.pause(false));
    assert_eq!(world.acquire("one"), SlotDecision::Granted { probe: false });
    assert!(!world.state.pause(false), "nothing changes");
    world.release("one", throttled(Some(3600)));
    assert!(world.state.pause(false), "also one that is not paused");
    assert!(matches!(world.acquire("two"), SlotDecision::Granted { .. }));
}
