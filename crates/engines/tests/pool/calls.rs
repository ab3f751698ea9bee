//! What happens when calls fail, take too long, are given up or go on elsewhere.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::{EngineError, EngineRequest, SpeechEngine};
use verbatim_core::provider::{
    BreakerState, Outcome, ProviderView, Rate, SlotLimits, SlotRequest, acquire, list, pause, release,
};
use verbatim_engines::pool::{Provider, ProviderPool};

use crate::support::service::{Allowance, Service, ServiceEngine};
use crate::support::{Note, Notebook, World, local, remote};

const SECOND: Duration = Duration::from_secs(1);

fn service() -> Arc<Service> {
    Service::new(Allowance::generous(SECOND))
}

async fn transcribe(pool: &ProviderPool, request: EngineRequest) -> Result<String, EngineError> {
    let done = pool.transcribe(request, Arc::new(Notebook::default()), CancellationToken::new()).await;
    done.map(|transcript| transcript.engine)
}

async fn view(world: &World, name: &str) -> Result<ProviderView> {
    let views = list(world.state.as_ref()).await?;
    views.into_iter().find(|view| view.name == name).context("announced")
}

#[tokio::test(start_paused = true)]
async fn every_failure_of_one_provider_sends_the_job_to_the_next() -> Result<()> {
    for kind in [
        FailureKind::EngineUnavailable,
        FailureKind::EngineFailed,
        FailureKind::TimedOut,
        FailureKind::BadAudio,
        FailureKind::UnsupportedOption,
        FailureKind::Throttled,
    ] {
        let world = World::new();
        let (first, second) = (service(), service());
        first.fail_with(&[kind]);
        let second_choice = Provider { priority: 2, ..remote("second", &second) };
        let pool = world.pool(vec![remote("first", &first), second_choice]);
        transcribe(&pool, world.request(1)).await?;
        assert_eq!((first.served().len(), second.served().len()), (0, 1), "{kind:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_each_was_tried_once_and_the_job_learns_the_most_telling_reason() -> Result<()> {
    let world = World::new();
    let (first, second) = (service(), service());
    first.fail_with(&[FailureKind::BadAudio, FailureKind::EngineFailed]);
    second.fail_with(&[FailureKind::EngineFailed, FailureKind::EngineFailed]);
    let second_choice = Provider { priority: 2, ..remote("second", &second) };
    let pool = world.pool(vec![remote("first", &first), second_choice]);
    let error = transcribe(&pool, world.request(1)).await.expect_err("both fail");
    assert_eq!(error.kind, FailureKind::BadAudio);
    let error = transcribe(&pool, world.request(1)).await.expect_err("both fail");
    assert_eq!(error.kind, FailureKind::EngineFailed);
    transcribe(&pool, world.request(1)).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_longer_than_its_audio_may_is_given_up() -> Result<()> {
    let world = World::new();
    let (slow, quick) = (Service::new(Allowance::generous(100 * SECOND)), service());
    let impatient = Provider { timeout_base: 10 * SECOND, timeout_per_audio: 2.0, ..remote("slow", &slow) };
    let pool = world.pool(vec![impatient, local("quick", &quick)]);
    assert_eq!(transcribe(&pool, world.request(40)).await?, "whisper", "90 s for 40 s of audio");
    assert_eq!(slow.under_way(), 0, "the call was cancelled");
    assert_eq!(transcribe(&pool, world.request(50)).await?, "azure", "110 s for 50 s of audio");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_says_too_many_is_waited_for() -> Result<()> {
    let world = World::new();
    let only = service();
    only.fail_with(&[FailureKind::Throttled]);
    let pool = world.pool(vec![remote("only", &only)]);
    transcribe(&pool, world.request(1)).await?;
    only.fail_with(&[FailureKind::Throttled; 3]);
    let error = transcribe(&pool, world.request(1)).await.expect_err("thrice is enough");
    assert_eq!(error.kind, FailureKind::Throttled);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_a_job_up_gives_its_slot_back() -> Result<()> {
    let world = World::new();
    let slow = Service::new(Allowance::generous(30 * SECOND));
    let mut provider = remote("slow", &slow);
    provider.limits.max_concurrency = 1;
    let pool = Arc::new(world.pool(vec![provider]));
    pool.announce().await;
    let start = |cancel: CancellationToken| {
        let (pool, request) = (Arc::clone(&pool), world.request(1));
        tokio::spawn(async move { pool.transcribe(request, Arc::new(Notebook::default()), cancel).await })
    };
    // One is cancelled while it runs, one while it waits, one is dropped while it runs, one while it waits.
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    let cancelled = [start(tokens[0].clone()), start(tokens[1].clone())];
    tokio::time::sleep(SECOND).await;
    assert_eq!(view(&world, "slow").await?.in_use, 1);
    tokens.iter().for_each(CancellationToken::cancel);
    for job in cancelled {
        assert_eq!(job.await?.err().map(|error| error.kind), Some(FailureKind::Cancelled));
    }
    let dropped = [start(CancellationToken::new()), start(CancellationToken::new())];
    tokio::time::sleep(SECOND).await;
    dropped.iter().for_each(tokio::task::JoinHandle::abort);
    for job in dropped {
        assert!(job.await.is_err());
    }
    pool.settled().await;
    let after = view(&world, "slow").await?;
    assert_eq!((after.in_use, after.breaker), (0, BreakerState::Closed));
    start(CancellationToken::new()).await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_long_call_keeps_its_slot_and_that_of_a_dead_process_lapses() -> Result<()> {
    let mut world = World::new();
    world.config.slot_lease = 10 * SECOND;
    let slow = Service::new(Allowance::generous(50 * SECOND));
    let mut provider = remote("slow", &slow);
    provider.limits.max_concurrency = 1;
    let pool = Arc::new(world.pool(vec![provider.clone()]));
    pool.announce().await;
    let running = {
        let (pool, request) = (Arc::clone(&pool), world.request(1));
        tokio::spawn(async move { transcribe(&pool, request).await })
    };
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(view(&world, "slow").await?.in_use, 1);
    // The process dies: whatever it would still say does not arrive.
    world.state.down.store(true, std::sync::atomic::Ordering::Relaxed);
    running.abort();
    assert!(running.await.is_err());
    pool.settled().await;
    world.state.down.store(false, std::sync::atomic::Ordering::Relaxed);
    let other = world.pool(vec![provider]);
    assert_eq!(transcribe(&other, world.request(1)).await?, "azure");
    Ok(())
}

/// A provider whose engine writes a checkpoint before its call is answered.
fn in_pieces(
    provider: Provider,
    kind: &'static str,
    service: &Arc<Service>,
) -> (Provider, Arc<ServiceEngine>) {
    let mut engine = ServiceEngine::new(kind, Arc::clone(service));
    engine.in_pieces = true;
    let engine = Arc::new(engine);
    (Provider { engine: Arc::clone(&engine) as _, ..provider }, engine)
}

#[tokio::test(start_paused = true)]
async fn another_worker_goes_on_at_the_provider_that_began() -> Result<()> {
    let world = World::new();
    let (first, second) = (service(), service());
    let (west, west_engine) = in_pieces(Provider { priority: 2, ..remote("west", &first) }, "azure", &first);
    let (east, east_engine) =
        in_pieces(Provider { priority: 1, ..remote("east", &second) }, "azure", &second);
    let pool = world.pool(vec![west, east]);
    // East is away when the job begins.
    second.set_down(true);
    let notebook = Arc::new(Notebook::default());
    let request = world.request(10);
    pool.transcribe(request.clone(), Arc::clone(&notebook) as _, CancellationToken::new()).await?;
    let checkpoint = notebook.last_checkpoint().context("one was written")?;
    // Another worker takes over: east is back and comes first, but west knows the work.
    second.set_down(false);
    let resumed = EngineRequest { resume: Some(checkpoint), ..request };
    pool.transcribe(resumed.clone(), Arc::new(Notebook::default()), CancellationToken::new()).await?;
    let given =
        west_engine.calls().last().and_then(|(resume, _)| resume.clone()).context("its checkpoint")?;
    assert_eq!((given.revision.as_str(), &given.state["operation"]), ("azure", &serde_json::json!(7)));
    // West is gone: east begins anew, and is not given what west wrote.
    first.set_down(true);
    for _ in 0..3 {
        transcribe(&pool, EngineRequest { resume: None, ..world.request(1) }).await?;
    }
    pool.transcribe(resumed, Arc::new(Notebook::default()), CancellationToken::new()).await?;
    assert!(east_engine.calls().iter().all(|(resume, _)| resume.is_none()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_observer_learns_that_another_provider_begins_anew() -> Result<()> {
    let world = World::new();
    let (first, second) = (service(), service());
    first.fail_with(&[FailureKind::EngineFailed]);
    let (broken, _) = in_pieces(remote("broken", &first), "azure", &first);
    let (other, other_engine) = in_pieces(local("other", &second), "whisper", &second);
    let pool = world.pool(vec![broken, other]);
    let notebook = Arc::new(Notebook::default());
    pool.transcribe(world.request(10), Arc::clone(&notebook) as _, CancellationToken::new()).await?;
    let told: Vec<_> =
        notebook.said().into_iter().filter(|note| !matches!(note, Note::Checkpoint(_))).collect();
    assert_eq!(told, [Note::Window(5_000), Note::Anew, Note::Window(5_000)]);
    assert_eq!(other_engine.calls()[0].0, None);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_another_provider_has_begun_is_stopped_when_the_job_is_done() -> Result<()> {
    let world = World::new();
    let (first, second) = (service(), service());
    first.fail_with(&[FailureKind::EngineFailed]);
    let (broken, begun) = in_pieces(remote("broken", &first), "azure", &first);
    let (other, done) = in_pieces(local("other", &second), "whisper", &second);
    let pool = world.pool(vec![broken, other]);
    transcribe(&pool, world.request(10)).await?;
    pool.settled().await;
    let left = begun.abandoned.lock().expect("no panic").clone();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].revision.as_str(), &left[0].state["operation"]), ("azure", &serde_json::json!(7)));
    assert!(done.abandoned.lock().expect("no panic").is_empty());
    Ok(())
}

/// A provider whose engine makes so many requests for each job.
fn with_requests(requests: u32, service: &Arc<Service>) -> Provider {
    let engine = ServiceEngine { requests, ..ServiceEngine::new("azure", Arc::clone(service)) };
    Provider { engine: Arc::new(engine), ..remote("cloud", service) }
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_first_of_a_job_are_counted_too() -> Result<()> {
    let world = World::new();
    let per = Duration::from_secs(10);
    let service = Service::new(Allowance { per: Some((10, per)), ..Allowance::generous(SECOND / 10) });
    let limits = SlotLimits { max_concurrency: 100, rate: Some(Rate { requests: 10, per }) };
    // Two processes, one subscription.
    let pools = [0, 1].map(|_| world.pool(vec![Provider { limits, ..with_requests(5, &service) }]));
    let jobs = (0..6).map(|job| transcribe(&pools[job % 2], world.request(1)));
    for done in join_all(jobs).await {
        assert_eq!(done?, "azure");
    }
    assert_eq!((service.served().len(), service.refused()), (30, 0));
    assert!(view(&world, "cloud").await?.requests_last_minute >= 30);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_next_request_must_wait_long_goes_back_and_nobody_is_blamed() -> Result<()> {
    for pausing in [true, false] {
        let world = World::new();
        let service = service();
        let cloud = Provider { timeout_base: SECOND * 300, ..with_requests(3, &service) };
        let pool = Arc::new(world.pool(vec![cloud]));
        pool.announce().await;
        let job = {
            let (pool, request) = (Arc::clone(&pool), world.request(1));
            tokio::spawn(async move { transcribe(&pool, request).await })
        };
        while service.under_way() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if pausing {
            pause(world.state.as_ref(), "cloud", true).await?;
        } else {
            // Another node is told to come back in an hour.
            let limits = SlotLimits { max_concurrency: 100, rate: None };
            let slot = SlotRequest { holder: "other".to_owned(), lease: SECOND * 30, limits };
            acquire(world.state.as_ref(), "cloud", &slot).await?;
            let refused = Outcome::Throttled { retry_after: Some(SECOND * 3600) };
            release(world.state.as_ref(), "cloud", "other", refused).await?;
        }
        let begun = tokio::time::Instant::now();
        let error = job.await?.expect_err("it goes back");
        assert_eq!(error.kind, FailureKind::Throttled, "{error}");
        assert!(begun.elapsed() < SECOND * 60, "{:?}", begun.elapsed());
        assert_eq!(service.served().len(), 1);
        let seen = view(&world, "cloud").await?;
        assert_eq!((seen.totals.failed, seen.breaker), (0, BreakerState::Closed));
        assert_eq!(seen.totals.throttled, u64::from(!pausing), "only the other node's");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_observer_learns_when_the_work_begins_and_how_long_it_may_take() -> Result<()> {
    let world = World::new();
    let pool = Arc::new(world.pool(vec![local("here", &service())]));
    let notebooks: Vec<Arc<Notebook>> = (0..5).map(|_| Arc::default()).collect();
    let jobs = notebooks.iter().map(|notebook| {
        let (pool, request, notebook) = (Arc::clone(&pool), world.request(3), Arc::clone(notebook));
        tokio::spawn(async move { pool.transcribe(request, notebook, CancellationToken::new()).await })
    });
    let jobs: Vec<_> = jobs.collect();
    tokio::time::sleep(SECOND / 2).await;
    // The engine takes four at once; a call has a minute, a second for each second of audio, and two to end itself.
    let begun = vec![Note::Begun(Duration::from_secs(65))];
    let (first, last) = notebooks.split_at(4);
    assert!(first.iter().all(|notebook| notebook.notes() == begun));
    assert_eq!(last[0].notes(), [], "it waits");
    for job in jobs {
        job.await??;
    }
    assert_eq!(last[0].notes(), begun);
    Ok(())
}
