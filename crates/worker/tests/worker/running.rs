//! The worker under apalis: several jobs at once, stopping, and staying alive.

use std::sync::Arc;
use std::time::Duration;

use crate::support::engines::{BEGIN, OddEngine, PANIC, WAIT};
use crate::support::{PATIENCE, World, config};
use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{JobState, Lease};
use verbatim_worker_lib::{ShutdownSignals, Worker, WorkerConfig, WorkerError, WorkerExit};

fn waiting(lease: &mut Lease) {
    lease.options.prompt = Some(WAIT.to_owned());
}

/// Runs the worker; the signals stop it.
pub(crate) fn start(worker: &Arc<Worker>) -> (ShutdownSignals, JoinHandle<Result<WorkerExit, WorkerError>>) {
    let (worker, signals) = (Arc::clone(worker), ShutdownSignals::default());
    let given = signals.clone();
    (signals, tokio::spawn(async move { worker.run(given).await }))
}

#[tokio::test(start_paused = true)]
async fn every_job_is_done_and_a_panic_harms_no_other() -> Result<()> {
    let world = World::new()?;
    let bad = world.submit_with(1, |lease| lease.options.prompt = Some(PANIC.to_owned())).await?;
    for secs in 1..=20 {
        world.submit(secs).await?;
    }
    let worker = world.worker(OddEngine::default(), config(4))?;
    let (signals, running) = start(&worker);
    let state = world.leases.until(|state| state.jobs.values().all(|job| job.state.is_terminal())).await;
    signals.drain.cancel();
    assert_eq!(running.await??, WorkerExit::Shutdown);

    assert_eq!(state.jobs[&bad].state, JobState::Failed);
    assert_eq!(state.jobs[&bad].failures.len(), 5);
    assert!(state.jobs[&bad].failures.iter().all(|failure| failure.kind == FailureKind::Panicked));
    let completed = state.jobs.values().filter(|job| job.state == JobState::Completed);
    assert!(completed.clone().all(|job| job.lease.attempt == 1));
    assert_eq!(completed.count(), 20);
    assert!(state.most_running > 1 && state.most_running <= 4, "{}", state.most_running);
    assert_eq!(world.metric("verbatim_leases_held")?, 0.0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_while_the_engine_works() -> Result<()> {
    let world = World::new()?;
    world.submit_with(1, waiting).await?;
    let engine = OddEngine::default();
    let (signals, running) = start(&world.worker(engine.clone(), config(2))?);
    let begun = Instant::now();
    world.leases.until(|state| state.renewals == 3).await;
    // Every two seconds, so that cancellations are noticed.
    assert_eq!(begun.elapsed().as_secs(), 6);
    engine.open();
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_engine_is_left_to_other_workers() -> Result<()> {
    let world = World::new()?;
    for _ in 0..5 {
        world.submit_with(1, waiting).await?;
    }
    let engine = OddEngine::default();
    let ahead = |claim_ahead| WorkerConfig { claim_ahead, ..config(4) };
    let (signals, running) = start(&world.worker(engine.clone(), ahead(2))?);
    engine.until(|gate| gate.arrived == 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.leases.until(|state| state.running() == 2).await;
    let (others, also_running) = start(&world.worker(engine.clone(), ahead(4))?);
    world.leases.until(|state| state.running() == 5).await;
    engine.open();
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    signals.drain.cancel();
    others.drain.cancel();
    running.await??;
    also_running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_makes_room_for_another_claim() -> Result<()> {
    let world = World::new()?;
    for _ in 0..5 {
        world.submit_with(1, |lease| lease.options.prompt = Some(BEGIN.to_owned())).await?;
    }
    let engine = OddEngine::default();
    let (signals, running) =
        start(&world.worker(engine.clone(), WorkerConfig { claim_ahead: 1, ..config(4) })?);
    engine.until(|gate| gate.arrived == 4).await;
    engine.open();
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_it_can_and_releases_the_rest() -> Result<()> {
    let world = World::new()?;
    let stuck = world.submit_with(1, waiting).await?;
    let engine = OddEngine::default();
    let (signals, running) = start(&world.worker(engine.clone(), config(2))?);
    engine.until(|gate| gate.arrived == 1).await;
    // Enough audio to be at work for a while.
    let quick = world.submit_with(3000, |_| {}).await?;
    world.leases.until(|state| state.running() == 2).await;
    signals.drain.cancel();
    let late = world.submit(1).await?;
    let begun = Instant::now();
    assert_eq!(running.await??, WorkerExit::Shutdown);
    assert_eq!(begun.elapsed().as_secs(), 30);

    assert_eq!(world.leases.job(&quick).state, JobState::Completed);
    let stuck = world.leases.job(&stuck);
    // Refunded.
    assert_eq!((stuck.state, stuck.releases, stuck.lease.attempt), (JobState::Queued, 1, 0));
    let late = world.leases.job(&late);
    assert_eq!((late.state, late.releases), (JobState::Queued, 0));
    assert_eq!(world.metric("verbatim_job_attempts_total{outcome=\"released\"}")?, 1.0);
    Ok(())
}

/// What the engine can do may depend on a store that hangs.
#[tokio::test(start_paused = true)]
async fn draining_does_not_wait_for_what_the_engine_can_do() -> Result<()> {
    let world = World::new()?;
    let engine = OddEngine::mute();
    let (signals, running) = start(&world.worker(engine.clone(), config(2))?);
    engine.until(|gate| gate.asked > 0).await;
    let begun = Instant::now();
    signals.drain.cancel();
    let exit = tokio::time::timeout(PATIENCE, running).await.context("the worker drains for ever")?;
    assert_eq!(exit??, WorkerExit::Shutdown);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_releases_at_once() -> Result<()> {
    let world = World::new()?;
    let ids = [world.submit_with(1, waiting).await?, world.submit_with(1, waiting).await?];
    let engine = OddEngine::default();
    let (signals, running) = start(&world.worker(engine.clone(), config(2))?);
    engine.until(|gate| gate.arrived == 2).await;
    signals.drain.cancel();
    let begun = Instant::now();
    signals.release.cancel();
    running.await??;
    assert!(begun.elapsed() < Duration::from_secs(1));
    for id in ids {
        assert_eq!((world.leases.job(&id).state, world.leases.job(&id).releases), (JobState::Queued, 1));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_claim_under_way_at_the_end_is_awaited_and_its_job_released() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    world.leases.change(|state| state.claims_wait = true);
    let (signals, running) = start(&world.worker(OddEngine::default(), config(1))?);
    world.leases.until(|state| state.claims.len() == 1).await;
    signals.drain.cancel();
    // Let the worker see the signal before the store answers.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.leases.change(|state| state.claims_wait = false);
    running.await??;
    let job = world.leases.job(&id);
    assert_eq!((job.state, job.releases, job.lease.attempt), (JobState::Queued, 1, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_worker_outlives_its_store() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    world.leases.change(|state| state.deaf = true);
    let (signals, running) = start(&world.worker(OddEngine::default(), config(1))?);
    let state = world.leases.until(|state| state.failed_calls > 5).await;
    // A claim whose answer was lost is repeated under its own nonce, or the lease it gave would lapse.
    assert!(state.claims.windows(2).all(|pair| pair[0] == pair[1]));
    world.leases.change(|state| state.deaf = false);
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    assert_eq!(world.leases.job(&id).lease.attempt, 1);
    signals.drain.cancel();
    running.await??;
    Ok(())
}

/// The lease lapses, and another node may know the words; repeated until the end of the process, the finish would hold its slot.
#[tokio::test(start_paused = true)]
async fn a_finish_that_only_another_version_understands_holds_no_slot() -> Result<()> {
    let world = World::new()?;
    let bad = world.submit(1).await?;
    world.leases.change(|state| state.newer = true);
    let (signals, running) = start(&world.worker(OddEngine::default(), config(1))?);
    let state = world.leases.until(|state| state.failed_calls > 0).await;
    assert_eq!(state.failed_calls, 1);
    // The only slot is free again.
    let claims = state.claims.len();
    let state = world.leases.until(|state| state.claims.len() > claims).await;
    assert_eq!((state.failed_calls, state.jobs[&bad].state), (1, JobState::Running));
    world.leases.change(|state| state.newer = false);
    let good = world.submit(1).await?;
    world.leases.until(|state| state.jobs[&good].state == JobState::Completed).await;
    signals.drain.cancel();
    running.await??;
    Ok(())
}

/// A lease that cannot be read would be answered like that for ever.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_refused_for_good_is_followed_by_another() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    world.leases.change(|state| state.claims_to_refuse = 7);
    let (signals, running) = start(&world.worker(OddEngine::default(), config(1))?);
    let state = world.leases.until(|state| state.jobs[&id].state == JobState::Completed).await;
    // Three tries each.
    let tries: Vec<usize> = state.claims[..7].chunk_by(|one, next| one == next).map(<[_]>::len).collect();
    assert_eq!(tries, [3, 3, 1]);
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_worked_on_alone() -> Result<()> {
    let world = World::new()?;
    let suspect = world
        .submit_with(1, |lease| {
            waiting(lease);
            lease.alone = true;
        })
        .await?;
    for _ in 0..3 {
        world.submit(1).await?;
    }
    let engine = OddEngine::default();
    let (signals, running) = start(&world.worker(engine.clone(), config(3))?);
    engine.until(|gate| gate.arrived == 1).await;
    // Time for as many claims as the worker would make.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let state = world.leases.until(|_| true).await;
    assert_eq!((state.jobs[&suspect].state, state.running()), (JobState::Running, 1));
    assert_eq!(state.claims.iter().map(|claim| claim.idle).collect::<Vec<_>>(), [true]);
    engine.open();
    world.leases.until(|state| state.all_are(JobState::Completed)).await;
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn only_an_idle_worker_calls_itself_idle() -> Result<()> {
    let world = World::new()?;
    world.submit_with(1, waiting).await?;
    let engine = OddEngine::default();
    let (signals, running) = start(&world.worker(engine.clone(), config(2))?);
    engine.until(|gate| gate.arrived == 1).await;
    let state = world.leases.until(|state| state.claims.len() >= 3).await;
    let idle: Vec<bool> = state.claims.iter().map(|claim| claim.idle).collect();
    assert!(idle[0] && idle[1..].iter().all(|idle| !idle), "{idle:?}");
    engine.open();
    world.leases.until(|state| state.claims.last().is_some_and(|claim| claim.idle)).await;
    signals.drain.cancel();
    running.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_worker_stops_after_as_many_jobs_as_it_was_told() -> Result<()> {
    let world = World::new()?;
    for _ in 0..5 {
        world.submit(1).await?;
    }
    let worker = world.worker(OddEngine::default(), WorkerConfig { max_jobs: 2, ..config(1) })?;
    let (_signals, running) = start(&worker);
    assert_eq!(running.await??, WorkerExit::JobLimit);
    let done = |state: &crate::support::leases::State| {
        state.jobs.values().filter(|job| job.state == JobState::Completed).count()
    };
    let state = world.leases.until(|_| true).await;
    assert_eq!((done(&state), state.running()), (2, 0));

    let worker = world.worker(OddEngine::default(), WorkerConfig { max_rss_bytes: 1, ..config(1) })?;
    let (_signals, running) = start(&worker);
    assert_eq!(running.await??, WorkerExit::MemoryLimit);
    assert_eq!(done(&world.leases.until(|_| true).await), 3);
    Ok(())
}
