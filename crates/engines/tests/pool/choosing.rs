//! Which provider gets a job.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use verbatim_core::CancellationToken;
use verbatim_core::class::JobClass;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::money::Money;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{EngineError, EngineRequest, SpeechEngine};
use verbatim_core::provider::{list, pause};
use verbatim_engines::pool::{PoolError, Provider, ProviderPool};

use crate::support::service::{Allowance, Service, ServiceEngine, model};
use crate::support::{Notebook, World, local, remote};

const SECOND: Duration = Duration::from_secs(1);

fn service() -> Arc<Service> {
    Service::new(Allowance::generous(SECOND))
}

/// A provider with an engine of its own making.
fn with_engine(
    provider: Provider,
    service: &Arc<Service>,
    change: impl FnOnce(&mut ServiceEngine),
) -> Provider {
    let kind = if provider.local { "whisper" } else { "azure" };
    let mut engine = ServiceEngine::new(kind, Arc::clone(service));
    change(&mut engine);
    Provider { engine: Arc::new(engine), ..provider }
}

async fn transcribe(pool: &ProviderPool, request: EngineRequest) -> Result<String, EngineError> {
    let done = pool.transcribe(request, Arc::new(Notebook::default()), CancellationToken::new()).await;
    done.map(|transcript| transcript.engine)
}

fn asking(world: &World, options: TranscribeOptions, secs: usize) -> EngineRequest {
    EngineRequest { options, ..world.request(secs) }
}

/// `local` runs `tiny.en` and `base` without limits, `cloud` runs `base`, tells speakers apart and takes a minute.
fn local_and_cloud(world: &World) -> ProviderPool {
    let service = service();
    let here = with_engine(local("here", &service), &service, |engine| {
        engine.capabilities.models = vec![model("whisper", "tiny.en", false), model("whisper", "base", true)];
    });
    let cloud = with_engine(remote("cloud", &service), &service, |engine| {
        engine.capabilities.max_duration = Some(Duration::from_secs(60));
        engine.capabilities.models.iter_mut().for_each(|model| model.diarizes = true);
    });
    world.pool(vec![Provider { priority: 1, ..here }, Provider { priority: 2, ..cloud }])
}

#[tokio::test(start_paused = true)]
async fn auto_takes_the_first_engine_that_can_do_the_job() -> Result<()> {
    let world = World::new();
    let pool = local_and_cloud(&world);
    let base = TranscribeOptions::for_model("base");
    assert_eq!(transcribe(&pool, asking(&world, base.clone(), 1)).await?, "whisper");
    let diarize = TranscribeOptions { diarize: true, ..base.clone() };
    assert_eq!(transcribe(&pool, asking(&world, diarize, 1)).await?, "azure");
    for engine in ["azure", "cloud"] {
        let asked = TranscribeOptions { engine: engine.to_owned(), ..base.clone() };
        assert_eq!(transcribe(&pool, asking(&world, asked, 1)).await?, "azure");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_no_engine_can_do_is_refused_with_the_reason() {
    let world = World::new();
    let pool = local_and_cloud(&world);
    let refusal = async |options: TranscribeOptions, secs| {
        let error = transcribe(&pool, asking(&world, options, secs)).await.expect_err("refused");
        assert_eq!(error.kind, FailureKind::UnsupportedOption);
        error.message
    };
    let base = TranscribeOptions::for_model("base");
    let cloud = TranscribeOptions { engine: "azure".to_owned(), ..base };
    assert!(refusal(cloud, 61).await.contains("at most 60 s"));
    let german = Language::parse("de").ok();
    let german = TranscribeOptions { language: german, ..TranscribeOptions::for_model("tiny.en") };
    assert!(refusal(german, 1).await.contains("English-only"));
}

#[tokio::test(start_paused = true)]
async fn what_only_other_workers_have_goes_back_to_the_queue() {
    let world = World::new();
    let pool = local_and_cloud(&world);
    let base = TranscribeOptions::for_model("base");
    for (options, reason) in [
        (TranscribeOptions::for_model("huge"), "no model `huge`"),
        (TranscribeOptions { engine: "x".to_owned(), ..base.clone() }, "engine `x`"),
    ] {
        let told = pool.check(&options).expect_err("known without the audio");
        let error = transcribe(&pool, asking(&world, options, 1)).await.expect_err("given back");
        assert_eq!((told.kind, &told.message), (error.kind, &error.message));
        assert_eq!(error.kind, FailureKind::EngineUnavailable);
        assert!(error.message.contains(reason) && error.retry_after.is_some(), "{error:?}");
    }
    // What the engine that was named never does, it does nowhere.
    let speakers = TranscribeOptions { engine: "whisper".to_owned(), diarize: true, ..base };
    let error = transcribe(&pool, asking(&world, speakers, 1)).await.expect_err("refused");
    assert_eq!(error.kind, FailureKind::UnsupportedOption);
    assert!(error.message.contains("speakers"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_names_no_model_gets_the_default_of_whoever_can_do_it() -> Result<()> {
    let world = World::new();
    let service = service();
    let mut small = ServiceEngine::new("whisper", Arc::clone(&service));
    small.capabilities.models = vec![model("whisper", "tiny.en", false)];
    let mut cloud = ServiceEngine::new("azure", Arc::clone(&service));
    cloud.capabilities.models = vec![model("azure", "azure-fast", true)];
    let (small, cloud) = (Arc::new(small), Arc::new(cloud));
    let pool = world.pool(vec![
        Provider { engine: Arc::clone(&small) as _, priority: 1, ..local("here", &service) },
        Provider { engine: Arc::clone(&cloud) as _, priority: 2, ..remote("cloud", &service) },
    ]);
    let options = TranscribeOptions {
        any_model: true,
        language: Language::parse("de").ok(),
        ..TranscribeOptions::for_model("tiny.en")
    };
    assert_eq!(
        transcribe(&pool, asking(&world, options.clone(), 1)).await?,
        "azure",
        "the local model is English"
    );
    assert_eq!(cloud.calls()[0].1, "azure-fast", "the engine is asked for its own model");
    let english = TranscribeOptions { language: None, ..options };
    assert_eq!(transcribe(&pool, asking(&world, english, 1)).await?, "whisper");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_pool_can_what_its_engines_can() {
    let world = World::new();
    let capabilities = local_and_cloud(&world).capabilities();
    let names: Vec<_> = capabilities.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["tiny.en", "base"], "each once, the default of the first first");
    assert_eq!(capabilities.concurrency, 4 + 32);
    assert_eq!(capabilities.max_duration, None);
}

#[tokio::test(start_paused = true)]
async fn names_tell_providers_apart() {
    let world = World::new();
    let service = service();
    let made = |providers| ProviderPool::new(providers, world.ports(), world.config).err();
    assert_eq!(made(Vec::new()), Some(PoolError::Empty));
    let twice = vec![remote("one", &service), remote("one", &service)];
    assert_eq!(made(twice), Some(PoolError::SameName("one".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn among_equals_the_cheaper_one_is_taken_then_the_faster_one() -> Result<()> {
    let world = World::new();
    let (quick, slow) = (service(), Service::new(Allowance::generous(20 * SECOND)));
    let priced = |name, service: &Arc<Service>, price| Provider {
        price_per_hour: Money::parse(price),
        ..remote(name, service)
    };
    let cheap = world.pool(vec![priced("dear", &quick, 2.0), priced("cheap", &slow, 1.0)]);
    for _ in 0..3 {
        transcribe(&cheap, world.request(10)).await?;
    }
    assert_eq!((quick.served().len(), slow.served().len()), (0, 3));
    let equal = world.pool(vec![priced("slow", &slow, 1.0), priced("quick", &quick, 1.0)]);
    for _ in 0..20 {
        transcribe(&equal, world.request(10)).await?;
        // Both are known after a while, and looks at the state are a moment old.
        tokio::time::sleep(SECOND).await;
    }
    assert!(quick.served().len() >= 15, "{} of 20", quick.served().len());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_full_provider_is_passed_over_and_a_job_waits_when_all_are_full() -> Result<()> {
    let world = World::new();
    let (first, second) = (service(), service());
    let narrow = |provider: Provider| {
        let mut provider = provider;
        provider.limits.max_concurrency = 1;
        provider
    };
    let second_choice = Provider { priority: 2, ..narrow(remote("second", &second)) };
    let pool = Arc::new(world.pool(vec![narrow(remote("first", &first)), second_choice]));
    let jobs: Vec<_> = (0..6)
        .map(|_| {
            let (pool, request) = (Arc::clone(&pool), world.request(1));
            tokio::spawn(async move { transcribe(&pool, request).await })
        })
        .collect();
    for job in jobs {
        job.await??;
    }
    assert_eq!((first.served().len(), second.served().len()), (3, 3));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_job_that_finds_no_room_in_time_goes_back_to_the_queue_unblamed() -> Result<()> {
    let world = World::new();
    let endless = Service::new(Allowance::generous(3600 * SECOND));
    let mut provider = remote("one", &endless);
    provider.limits.max_concurrency = 1;
    provider.timeout_base = 7200 * SECOND;
    let pool = Arc::new(world.pool(vec![provider]));
    let running = {
        let (pool, request) = (Arc::clone(&pool), world.request(1));
        tokio::spawn(async move { transcribe(&pool, request).await })
    };
    while endless.under_way() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = transcribe(&pool, world.request(1)).await.expect_err("there is no room");
    assert_eq!(error.kind, FailureKind::Throttled);
    assert!(error.retry_after.is_some());
    running.abort();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_paused_provider_is_not_used_until_it_is_resumed() -> Result<()> {
    let world = World::new();
    let (cloud, here) = (service(), service());
    let pool = world.pool(vec![remote("cloud", &cloud), local("here", &here)]);
    pool.announce().await;
    let paused = pause(world.state.as_ref(), "cloud", true).await?;
    assert!(paused.is_some_and(|view| view.paused));
    assert_eq!(transcribe(&pool, world.request(1)).await?, "whisper");
    pause(world.state.as_ref(), "here", true).await?;
    tokio::time::sleep(SECOND).await;
    let error = transcribe(&pool, world.request(1)).await.expect_err("both are paused");
    assert_eq!(error.kind, FailureKind::EngineUnavailable);
    pause(world.state.as_ref(), "cloud", false).await?;
    assert_eq!(transcribe(&pool, world.request(1)).await?, "azure");
    assert_eq!(pause(world.state.as_ref(), "nobody", true).await?, None);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn operators_see_every_provider() -> Result<()> {
    let world = World::new();
    let cloud = service();
    let pool = world.pool(vec![remote("cloud", &cloud), local("here", &cloud)]);
    pool.announce().await;
    transcribe(&pool, world.request(10)).await?;
    pool.settled().await;
    let views = list(world.state.as_ref()).await?;
    let names: Vec<_> = views.iter().map(|view| (view.name.as_str(), view.facts.kind.as_str())).collect();
    assert_eq!(names, [("cloud", "azure"), ("here", "whisper")]);
    assert_eq!((views[0].totals.succeeded, views[0].in_use, views[0].requests_last_minute), (1, 0, 1));
    assert!(views[0].secs_per_audio_sec.is_some_and(|secs| (0.09..0.13).contains(&secs)));
    tokio::time::sleep(Duration::from_secs(2 * 86_400)).await;
    assert_eq!(list(world.state.as_ref()).await?.len(), 2, "the pool goes on announcing");
    drop(pool);
    tokio::time::sleep(Duration::from_secs(2 * 86_400)).await;
    assert!(list(world.state.as_ref()).await?.is_empty(), "nobody runs them any more");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn without_the_shared_state_local_engines_go_on_and_others_are_not_called() -> Result<()> {
    let world = World::new();
    let (cloud, here) = (service(), service());
    let both = world.pool(vec![remote("cloud", &cloud), local("here", &here)]);
    let far = world.pool(vec![remote("far", &cloud)]);
    world.state.down.store(true, Ordering::Relaxed);
    assert_eq!(transcribe(&both, world.request(1)).await?, "whisper");
    let error = transcribe(&far, world.request(1)).await.expect_err("nobody can count the calls");
    assert_eq!(error.kind, FailureKind::EngineUnavailable);
    assert!(cloud.served().is_empty());
    Ok(())
}

/// Every combination of what can be asked for that decides who can do it.
fn everything() -> Vec<TranscribeOptions> {
    let mut all = Vec::new();
    for engine in ["auto", "whisper", "azure", "here", "cloud", "openai", "elsewhere"] {
        for model in ["tiny.en", "base", "small"] {
            for language in [None, Some("en"), Some("de")] {
                for bits in 0..8 {
                    all.push(TranscribeOptions {
                        engine: engine.to_owned(),
                        any_model: bits & 1 != 0,
                        task: if bits & 2 != 0 { Task::Translate } else { Task::Transcribe },
                        diarize: bits & 4 != 0,
                        language: language.and_then(|code| Language::parse(code).ok()),
                        ..TranscribeOptions::for_model(model)
                    });
                }
            }
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_worker_claims_exactly_what_it_would_not_send_to_another() {
    let world = World::new();
    let service = service();
    let english = |name| {
        with_engine(local(name, &service), &service, |engine| {
            engine.capabilities.models = vec![model("whisper", "tiny.en", false)];
        })
    };
    let cloud = |name| {
        with_engine(remote(name, &service), &service, |engine| {
            engine.capabilities.models.iter_mut().for_each(|model| model.translates = false);
        })
    };
    let nothing = with_engine(remote("cloud", &service), &service, |engine| {
        engine.capabilities.models = Vec::new();
    });
    let pools = [
        ("both", local_and_cloud(&world)),
        ("english", world.pool(vec![english("here")])),
        ("cloud", world.pool(vec![cloud("cloud")])),
        ("english and cloud", world.pool(vec![english("here"), cloud("cloud")])),
        ("an engine without models", world.pool(vec![nothing])),
    ];
    for (name, pool) in pools {
        let abilities = pool.abilities().await;
        for options in everything() {
            let sent_on =
                matches!(pool.check(&options), Err(error) if error.kind == FailureKind::EngineUnavailable);
            let claimed = abilities.include(&JobClass::of(&options));
            assert_eq!(claimed, !sent_on, "{name}: {options:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_claims_nothing_for_which_it_has_only_a_paused_provider() -> Result<()> {
    let world = World::new();
    let pool = local_and_cloud(&world);
    pool.announce().await;
    let class = |engine: &str, diarize| {
        let any_model = diarize;
        let base = TranscribeOptions::for_model("base");
        JobClass::of(&TranscribeOptions { engine: engine.to_owned(), any_model, diarize, ..base })
    };
    let (shared, speakers) = (class("auto", false), class("auto", true));
    for paused in [false, true, false] {
        pause(world.state.as_ref(), "cloud", paused).await?;
        tokio::time::advance(6 * SECOND).await;
        let abilities = pool.abilities().await;
        assert!(
            abilities.include(&shared) && abilities.include(&class("whisper", false)),
            "the other does these"
        );
        for only_cloud in [&class("azure", false), &class("cloud", false), &speakers] {
            assert_eq!(abilities.include(only_cloud), !paused, "{only_cloud:?}");
        }
    }
    Ok(())
}
