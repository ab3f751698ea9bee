//! What the user of API nodes and workers may do in Redis (`deploy/compose/redis.acl`). Every test whose Redis is its own runs as
//! that user; here is what it may not do, and what is said where rules are narrower still.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use verbatim_core::ErrorKind;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::policy::StorePolicy;
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::{SeededIds, World};

use crate::server::RedisServer;
use crate::support::RedisHarness;

/// The rules that the stack ships, for this prefix, without the password.
pub(crate) fn node_rules(prefix: &str) -> String {
    let shipped = include_str!("../../../../deploy/compose/redis.acl");
    let line = shipped.lines().find_map(|line| line.strip_prefix("user verbatim on #@NODES@ "));
    line.expect("redis.acl has a user for nodes").replace("@PREFIX@", prefix)
}

/// What Redis refused to any user since it started: `user: command or key`.
pub(crate) fn refused(beside: &mut redis::Connection) -> redis::RedisResult<Vec<String>> {
    let entries: Vec<Vec<redis::Value>> = redis::cmd("ACL").arg("LOG").query(beside)?;
    let field = |entry: &[redis::Value], name: &str| {
        let mut pairs = entry.chunks_exact(2);
        let found =
            pairs.find(|pair| redis::from_redis_value::<String>(pair[0].clone()).is_ok_and(|of| of == name));
        found.and_then(|pair| redis::from_redis_value::<String>(pair[1].clone()).ok()).unwrap_or_default()
    };
    Ok(entries
        .iter()
        .map(|entry| format!("{}: {}", field(entry, "username"), field(entry, "object")))
        .collect())
}

async fn refusal(harness: &RedisHarness) -> Result<(ErrorKind, String)> {
    let config = harness.config(StorePolicy::default(), Arc::new(SeededIds::starting_at(1)));
    let error = RedisStore::connect(config).await.err().context("this Redis was not refused")?;
    Ok((error.kind(), format!("{:#}", anyhow::Error::new(error))))
}

/// With INFO forbidden nothing is known of the server, and everything else works.
#[tokio::test]
async fn a_redis_that_forbids_info_is_worked_with() -> Result<()> {
    let server = RedisServer::start(&[]);
    let at = RedisHarness::at(&server.url());
    let url = at.as_user(&format!("{} -info", node_rules(at.prefix())));
    let harness = RedisHarness::at_through(&url, &server.url()).named_as(&at);
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    world.work_off_one().await?;
    world.expect(&id, SubmissionStatus::Completed).await?;
    Ok(())
}

/// An operator who wrote rules of his own is told of them, not of a password that is right.
#[tokio::test]
async fn rules_that_forbid_too_much_are_told_from_a_wrong_password() -> Result<()> {
    let server = RedisServer::start(&[]);
    let at = RedisHarness::at(&server.url());
    let rules = node_rules(at.prefix());
    // Scripts; what a script calls; keys of another prefix.
    let narrow = [format!("{rules} -evalsha"), format!("{rules} -hset -set"), node_rules("of-somebody-else")];
    for rules in narrow {
        let url = at.as_user(&rules);
        let (kind, why) = refusal(&RedisHarness::at_through(&url, &server.url()).named_as(&at)).await?;
        ensure!(kind == ErrorKind::Internal, "{rules}: {why}");
        ensure!(why.contains("access rules (ACL)") && !why.contains("login does not work"), "{rules}: {why}");
    }
    Ok(())
}

/// What would end or change the whole server, or reach what is not the service's.
#[tokio::test]
async fn a_node_may_not_do_what_concerns_the_whole_server() -> Result<()> {
    let server = RedisServer::start(&[]);
    let at = RedisHarness::at(&server.url());
    let url = at.as_user(&node_rules(at.prefix()));
    let mut node = redis::Client::open(url)?.get_connection()?;
    let forbidden = [
        "FLUSHALL",
        "FLUSHDB",
        "SHUTDOWN NOSAVE",
        "CONFIG GET *",
        "CONFIG SET maxmemory 1",
        "ACL LIST",
        "MODULE LIST",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "SWAPDB 0 1",
        "REPLICAOF NO ONE",
        "SAVE",
        "BGREWRITEAOF",
        "MONITOR",
        "CLIENT KILL TYPE normal",
        "CLIENT LIST",
        "SLOWLOG GET",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "MIGRATE h 1 k 0 1",
        "RESTORE k 0 x",
        "PSUBSCRIBE *",
        "GET of-somebody-else",
        "SET of-somebody-else 1",
        "SUBSCRIBE of-somebody-else",
        "PUBLISH of-somebody-else 1",
    ];
    for command in forbidden {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().context("a command")?);
        words.for_each(|word| {
            asked.arg(word);
        });
        let answer = asked.exec(&mut node);
        ensure!(answer.as_ref().is_err_and(|error| error.code() == Some("NOPERM")), "{command}: {answer:?}");
    }
    ensure!(refused(&mut at.beside())?.len() >= 10, "Redis has not written down what it refused");
    Ok(())
}
