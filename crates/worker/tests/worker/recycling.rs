//! Limits after which a worker ends to be started afresh: what counts towards them, and that they cost no job anything.

use std::time::Duration;

use crate::running::start;
use crate::support::engines::{BEGIN, ELSEWHERE, OddEngine, WAIT};
use crate::support::leases::State;
use crate::support::{World, config};
use anyhow::Result;
use tokio::time::Instant;
use verbatim_core::job::{JobState, Lease};
use verbatim_core::ports::blobs::BlobKey;
use verbatim_worker_lib::{WorkerConfig, WorkerExit};

/// Longer than a worker that was told to stop may go on, and less than the time of an attempt.
const LONG: Duration = Duration::from_secs(1200);

/// Stays with its engine until the gate is opened.
fn long(lease: &mut Lease) {
    lease.options.prompt = Some(BEGIN.to_owned());
}

fn elsewhere(lease: &mut Lease) {
    lease.options.prompt = Some(ELSEWHERE.to_owned());
}

fn done(state: &State) -> usize {
    state.jobs.values().filter(|job| job.state == JobState::Completed).count()
}

fn nothing_was_cut(state: &State) -> bool {
    state.jobs.values().all(|job| job.releases == 0 && job.lease.token.fence.get() <= 1)
}

#[tokio::test(start_paused = true)]
async fn what_no_engine_saw_does_not_count() -> Result<()> {
    let world = World::new()?;
    let refused = world.submit_with(1, elsewhere).await?;
    for _ in 0..3 {
        let gone = world.submit(1).await?;
        world.blobs.delete(&BlobKey::for_upload(&gone)).await?;
    }
    world.submit(1).await?;
    let worker = world.worker(OddEngine::default(), WorkerConfig { max_jobs: 2, ..config(1) })?;
    let (_signals, running) = start(&worker);
    world.leases.until(|state| state.jobs[&refused].failures.len() >= 20).await;
    assert!(!running.is_finished(), "one job reached an engine, and two may");
    world.submit(1).await?;
    assert_eq!(running.await??, WorkerExit::JobLimit);
    assert_eq!(done(&world.leases.until(|_| true).await), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_before_an_engine_has_it_does_not_count_and_after_that_it_does() -> Result<()> {
    let world = World::new()?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), WorkerConfig { max_jobs: 1, ..config(1) })?;
    let (_signals, running) = start(&worker);
    for (arrived, prompt, ends) in [(1, WAIT, false), (2, BEGIN, true)] {
        let id = world.submit_with(1, |lease| lease.options.prompt = Some(prompt.to_owned())).await?;
        engine.until(|gate| gate.arrived == arrived && gate.begun == u32::from(ends)).await;
        world.leases.change(|state| state.jobs.get_mut(&id).map(|job| job.cancel_requested = true));
        let state = world.leases.until(|state| state.jobs[&id].state == JobState::Cancelled).await;
        assert_eq!(state.running(), 0);
        // Several looks for work.
        world.leases.until(|now| ends || now.claims.len() >= state.claims.len() + 5).await;
        assert!(ends || !running.is_finished(), "no engine has worked");
    }
    assert_eq!(running.await??, WorkerExit::JobLimit);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn past_its_limit_a_worker_goes_on_until_it_holds_nothing_and_at_twice_that_it_claims_no_more()
-> Result<()> {
    let world = World::new()?;
    let stuck = world.submit_with(1, long).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), WorkerConfig { max_jobs: 3, ..config(2) })?;
    let (_signals, running) = start(&worker);
    engine.until(|gate| gate.arrived == 1).await;
    assert_eq!(world.metric("verbatim_worker_retiring")?, 0.0);
    for _ in 0..20 {
        world.submit(1).await?;
    }
    // Twice the limit, and the one that is held all the time.
    let state = world.leases.until(|state| done(state) >= 6 && state.running() == 1).await;
    let begun = Instant::now();
    tokio::time::sleep(LONG).await;
    let later = world.leases.until(|_| true).await;
    assert_eq!((done(&later), later.running()), (done(&state), 1), "it claims no more");
    assert!(later.renewals >= state.renewals + 500, "and goes on renewing");
    assert!(!running.is_finished() && begun.elapsed() >= LONG, "without a deadline");
    assert_eq!(world.metric("verbatim_worker_retiring")?, 1.0);
    engine.open();
    assert_eq!(running.await??, WorkerExit::JobLimit);
    let state = world.leases.until(|_| true).await;
    assert_eq!(state.jobs[&stuck].state, JobState::Completed);
    // A claim that was under way when the limit was reached may have been given back.
    assert!((7..=8).contains(&done(&state)), "{}", done(&state));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_idle_past_its_limit_is_done_soon() -> Result<()> {
    let world = World::new()?;
    for secs in 1..=2 {
        world.submit(secs).await?;
    }
    let worker = world.worker(OddEngine::default(), WorkerConfig { max_jobs: 2, ..config(4) })?;
    let (_signals, running) = start(&worker);
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    let begun = Instant::now();
    assert_eq!(running.await??, WorkerExit::JobLimit);
    assert!(begun.elapsed() <= Duration::from_millis(500), "within one look for work");
    assert!(nothing_was_cut(&world.leases.until(|_| true).await));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn over_its_memory_a_worker_finishes_what_it_holds_without_a_deadline() -> Result<()> {
    let world = World::new()?;
    world.submit_with(1, long).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), WorkerConfig { max_rss_bytes: 1, ..config(3) })?;
    let (_signals, running) = start(&worker);
    engine.until(|gate| gate.arrived == 1).await;
    world.submit(1).await?;
    world.leases.until(|state| done(state) == 1).await;
    let late = world.submit(1).await?;
    tokio::time::sleep(LONG).await;
    assert!(!running.is_finished());
    assert_eq!(world.leases.job(&late).state, JobState::Queued);
    engine.open();
    assert_eq!(running.await??, WorkerExit::MemoryLimit);
    let state = world.leases.until(|_| true).await;
    assert_eq!((done(&state), state.running()), (2, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_signal_while_a_worker_waits_for_its_restart_drains_with_its_deadline() -> Result<()> {
    for second in [false, true] {
        let world = World::new()?;
        let held = world.submit_with(1, long).await?;
        let engine = OddEngine::default();
        let worker = world.worker(engine.clone(), WorkerConfig { max_rss_bytes: 1, ..config(2) })?;
        let (signals, running) = start(&worker);
        engine.until(|gate| gate.arrived == 1).await;
        world.submit(1).await?;
        world.leases.until(|state| done(state) == 1).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let begun = Instant::now();
        signals.drain.cancel();
        if second {
            signals.release.cancel();
        }
        assert_eq!(running.await??, WorkerExit::Shutdown, "whoever was told to end is not started afresh");
        assert_eq!(begun.elapsed().as_secs(), if second { 0 } else { 30 });
        let job = world.leases.job(&held);
        assert_eq!((job.state, job.releases, job.lease.attempt), (JobState::Queued, 1, 0));
    }
    Ok(())
}
