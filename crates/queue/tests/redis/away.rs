//! A Redis with which a node cannot start: what may pass is told from what is wrong, for a start waits for the one alone.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use verbatim_core::ErrorKind;
use verbatim_core::PortError;
use verbatim_core::policy::StorePolicy;
use verbatim_queue::conformance::SeededIds;
use verbatim_queue::{RedisConfig, RedisStore};

use crate::server::RedisServer;

async fn refusal(url: &str) -> Result<PortError> {
    let config = RedisConfig {
        url: url.to_owned(),
        prefix: "test".to_owned(),
        policy: StorePolicy::default(),
        ids: Arc::new(SeededIds::starting_at(1)),
    };
    RedisStore::connect(config).await.err().context("a node starts here")
}

/// A start with this waits.
async fn may_pass(url: &str) -> Result<()> {
    let error = refusal(url).await?;
    ensure!(error.kind() == ErrorKind::Unavailable, "{url}: {error:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_or_has_no_name_yet_may_come() -> Result<()> {
    may_pass("redis://127.0.0.1:1").await?;
    may_pass("redis://no-such-host.invalid:6379").await
}

#[tokio::test]
async fn a_server_that_hangs_may_go_on() -> Result<()> {
    let server = RedisServer::start(&[]);
    server.freeze();
    may_pass(&server.url()).await
}

#[tokio::test]
async fn a_server_that_loads_its_data_will_have_loaded_it() -> Result<()> {
    let mut server = RedisServer::start(&["--enable-debug-command", "yes"]);
    let mut beside = redis::Client::open(server.url())?.get_connection()?;
    redis::cmd("DEBUG").arg("POPULATE").arg(10_000).exec(&mut beside)?;
    redis::cmd("SAVE").exec(&mut beside)?;
    server.kill();
    // A tenth of a millisecond for each key: a second in all.
    server.restart_loading(&["--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"]);
    let error = refusal(&server.url()).await?;
    ensure!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("loads"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn sentinels_may_come_to_know_a_master() -> Result<()> {
    let sentinel = {
        let master = RedisServer::start(&[]);
        RedisServer::sentinel_of(&master, "main")
    };
    let at = |name: &str| format!("{}/{name}", sentinel.url().replacen("redis://", "redis+sentinel://", 1));
    // One that they know is gone, another they do not know.
    may_pass(&at("main")).await?;
    may_pass(&at("other")).await?;
    may_pass("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main").await
}

#[tokio::test]
async fn a_cluster_may_come_to_have_all_its_slots() -> Result<()> {
    let server = RedisServer::start(&["--cluster-enabled", "yes"]);
    may_pass(&server.url().replacen("redis://", "redis+cluster://", 1)).await?;
    may_pass("redis+cluster://127.0.0.1:1,127.0.0.1:2").await
}

#[tokio::test]
async fn a_login_that_never_worked_is_wrong_in_every_kind_of_redis() -> Result<()> {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    let clustered = RedisServer::start(&["--requirepass", "secret", "--cluster-enabled", "yes"]);
    let sentinel = RedisServer::sentinel_of(&server, "main");
    let urls = [
        server.url(),
        server.url().replacen("redis://", "redis://:guess@", 1),
        server.url().replacen("redis://", "redis://user:guess@", 1),
        clustered.url().replacen("redis://", "redis+cluster://:guess@", 1),
        format!("{}/main", sentinel.url().replacen("redis://", "redis+sentinel://:guess@", 1)),
    ];
    for url in urls {
        let error = refusal(&url).await?;
        ensure!(error.kind() == ErrorKind::Internal, "{url}: {error:?}");
        ensure!(error.to_string().contains("login"), "{url}: {error:?}");
    }
    Ok(())
}
