//! Keys and tokens between the engine and the service.

use anyhow::Result;
use futures::future::join_all;
use verbatim_core::failure::FailureKind;
use verbatim_engines::AzureEngine;
use verbatim_engines::azure::{AzureAuth, AzureConfig, AzurePorts};
use verbatim_standins::{Auth, AzureSettings, Fault, Hearing, Times};

use crate::support::{World, options, request, run, spoken};

async fn world() -> World {
    World::new(AzureSettings { hearing: Hearing::Tones, ..AzureSettings::default() }).await
}

fn auths(world: &World) -> Vec<Auth> {
    let seen = world.azure.requests().into_iter().filter(|seen| !seen.path.ends_with("issueToken"));
    seen.map(|seen| seen.auth).collect()
}

#[tokio::test]
async fn a_key_is_enough_where_no_token_is_wanted() -> Result<()> {
    let world = world().await;
    let engine = world.engine(AzureConfig { auth: AzureAuth::Key, ..world.config() });
    run(&engine, request(spoken(2000), options())).await?;
    assert_eq!(auths(&world), [Auth::Key]);
    assert_eq!(world.azure.tokens(), []);
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn one_token_serves_many_requests_of_several_nodes() -> Result<()> {
    let world = world().await;
    let nodes = [1, 2, 3, 4].map(|node| {
        let ports = AzurePorts { tokens: world.tokens(node), blobs: None };
        AzureEngine::new(world.config(), ports).expect("a good configuration")
    });
    let jobs = (0..20).map(|job| run(&nodes[job % 4], request(spoken(2000), options())));
    for done in join_all(jobs).await {
        done?;
    }
    assert_eq!(world.azure.tokens().len(), 1);
    assert_eq!(auths(&world), [Auth::Bearer; 20]);
    let metrics = world.metrics.render()?;
    assert!(metrics.contains("verbatim_tokens_total{outcome=\"issued\"} 1"), "{metrics}");
    assert!(metrics.contains("verbatim_tokens_total{outcome=\"reused\"} 19"), "{metrics}");
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn twenty_refusals_at_once_cause_one_renewal() -> Result<()> {
    let world = world().await;
    let nodes = [1, 2, 3, 4].map(|node| {
        let ports = AzurePorts { tokens: world.tokens(node), blobs: None };
        AzureEngine::new(world.config(), ports).expect("a good configuration")
    });
    for node in &nodes {
        run(node, request(spoken(2000), options())).await?;
    }
    assert_eq!(world.azure.tokens().len(), 1);
    world.azure.revoke_tokens();
    let jobs = (0..20).map(|job| run(&nodes[job % 4], request(spoken(2000), options())));
    for done in join_all(jobs).await {
        done?;
    }
    assert_eq!(world.azure.tokens().len(), 2);
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn a_service_that_refuses_every_token_is_asked_twice_and_no_more() {
    let world = world().await;
    world.azure.misbehave_at(":transcribe", Fault::ExpiredToken, Times::UntilHealed);
    let engine = world.engine(world.config());
    let refused = run(&engine, request(spoken(2000), options())).await.map(drop);
    assert_eq!(refused.map_err(|error| error.kind), Err(FailureKind::EngineUnavailable));
    assert_eq!(auths(&world), [Auth::Bearer; 2]);
    assert_eq!(world.azure.tokens().len(), 2);
}

#[tokio::test]
async fn a_wrong_key_is_said_to_be_wrong() {
    let world = world().await;
    let engine = world.engine(AzureConfig { key: "another-key".into(), ..world.config() });
    for _ in 0..3 {
        let error = run(&engine, request(spoken(2000), options())).await.map(drop).expect_err("refused");
        assert_eq!(error.kind, FailureKind::EngineUnavailable);
        assert!(error.message.contains("operator") && !error.message.contains("another-key"), "{error}");
    }
    assert_eq!(world.azure.requests().len(), 1, "the issuer is left alone for a while");
}
