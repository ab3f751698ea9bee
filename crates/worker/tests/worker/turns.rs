//! Decoding by turns: a tenant with much to decode does not keep others waiting, and nothing is decoded twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use verbatim_audio::ProcessorClock;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::TenantId;
use verbatim_core::job::JobState;
use verbatim_engines::FakeEngine;
use verbatim_worker_lib::{StageLimits, Worker, WorkerConfig};

use crate::running::start;
use crate::support::{World, config};

/// A clock that goes on by so much whenever it is looked at, and takes its time to answer.
struct Ticks {
    step: Duration,
    looks: AtomicU64,
}

impl ProcessorClock for Ticks {
    fn thread_time(&self) -> Duration {
        // So that whoever comes later finds the other still at it. Nothing depends on how long.
        std::thread::sleep(Duration::from_millis(1));
        self.step * u32::try_from(self.looks.fetch_add(1, Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
}

fn one_place() -> WorkerConfig {
    WorkerConfig { stages: StageLimits { decode: 1, ..StageLimits::default() }, ..config(4) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_makes_way_for_another_tenant_and_is_decoded_once() -> Result<()> {
    const MINUTES: u64 = 4;
    let world = World::new()?;
    let of = |tenant: &str| TenantId::parse(tenant).expect("a name");
    let clock = Arc::new(Ticks { step: Duration::from_millis(5), looks: AtomicU64::new(0) });
    let pipeline = world.pipeline(FakeEngine::new(0.0))?.with_clock(clock.clone());
    let worker = Arc::new(Worker::new(world.ports(), pipeline, one_place()));
    let long = world.submit_with(60 * MINUTES as u32, |lease| lease.tenant = of("busy")).await?;
    let (signals, running) = start(&worker);
    world.leases.until(|state| state.jobs[&long].state == JobState::Running).await;
    let short = world.submit_with(1, |lease| lease.tenant = of("other")).await?;
    let state = world.leases.until(|state| state.jobs[&short].state.is_terminal()).await;
    assert_eq!(state.jobs[&short].state, JobState::Completed);
    assert_eq!(state.jobs[&long].state, JobState::Running, "the long one is not done yet");
    let state = world.leases.until(|state| state.jobs[&long].state.is_terminal()).await;
    assert_eq!((state.jobs[&long].state, state.jobs[&long].lease.attempt), (JobState::Completed, 1));
    assert_eq!(state.jobs[&long].completions[0].duration_ms, MINUTES * 60_000);
    // Three looks for each packet of 4,096 frames (whose turn, what it cost, what reading cost), and some for the rest.
    let packets = MINUTES * 60 * 16_000 / 4096;
    let looks = clock.looks.load(Ordering::Relaxed);
    assert!(looks < 3 * packets + 500, "{looks} looks at {packets} packets");
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test]
async fn a_file_that_costs_too_much_is_given_up_at_once_and_for_good() -> Result<()> {
    let world = World::new()?;
    let clock = Arc::new(Ticks { step: Duration::from_secs(1), looks: AtomicU64::new(0) });
    let pipeline = world.pipeline(FakeEngine::new(0.0))?.with_clock(clock.clone());
    let worker = Worker::new(world.ports(), pipeline, one_place());
    let id = world.submit(60).await?;
    worker.run_once().await?;
    let job = world.leases.job(&id);
    assert_eq!((job.state, job.failures.len()), (JobState::Failed, 1));
    assert_eq!(job.failures[0].kind, FailureKind::BadAudio);
    assert!(job.failures[0].message.contains("processor time"), "{}", job.failures[0].message);
    assert!(clock.looks.load(Ordering::Relaxed) < 30);
    Ok(())
}
