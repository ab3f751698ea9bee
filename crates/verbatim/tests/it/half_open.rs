//! Connections that a firewall or router forgets: packets of those that are there vanish, new ones are made as ever. In a
//! network of the test's own, by the kernel's own filter; `silence::*` of the job store's tests are its small siblings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::support::redis_server::RedisServer;
use crate::support::sound::hello_times;
use crate::support::{Client, Server};

/// Well under a minute; the kernel gives up such a connection after a quarter of an hour.
const SOON: Duration = Duration::from_secs(40);

#[tokio::test]
async fn soak_forgotten_connections_to_redis_are_left_in_well_under_a_minute() -> Result<()> {
    let own = std::env::current_exe()?;
    let test = "half_open::in_a_network_of_its_own";
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(own)
        .args([test, "--exact", "--ignored", "--nocapture"])
        .status()
        .await?;
    ensure!(status.success(), "in the network of its own: {status}");
    Ok(())
}

async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().await.with_context(|| program.to_owned())?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {arguments:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Packets of the connections to this port that are there now vanish, in both directions. Returns how many these are.
async fn forget_connections(port: &str) -> Result<usize> {
    let filter = format!("( dport = :{port} )");
    let there = run("ss", &["-Htn", "state", "established", &filter]).await?;
    let mut forgotten = 0;
    for line in there.lines() {
        let local = line.split_whitespace().nth(2).context(there.clone())?;
        let own = local.rsplit(':').next().context("a port")?;
        for (from, to) in [(own, port), (port, own)] {
            let rule = ["-w", "-A", "INPUT", "-p", "tcp", "--sport", from, "--dport", to, "-j", "DROP"];
            run("iptables", &rule).await?;
        }
        forgotten += 1;
    }
    Ok(forgotten)
}

#[tokio::test]
#[ignore = "soak_forgotten_connections_… runs it in a network of its own"]
async fn in_a_network_of_its_own() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"]).await?;
    let (folder, redis) = (tempfile::tempdir()?, RedisServer::start(&[]));
    let url = redis.url();
    let settings = [
        ("VERBATIM__REDIS__URL", url.as_str()),
        ("VERBATIM__AUTH__REQUIRED", "false"),
        ("VERBATIM__WORKER__ENGINES", "fake"),
        ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01"),
    ];
    let worker = Server::start_node("worker", folder.path(), &settings).await?;
    let api = Server::start_node("api", folder.path(), &settings).await?;
    let client = Client::new(api.url());
    let before = client.ended(&client.accepted(hello_times(1), &[]).await?).await?;
    ensure!(before["status"] == "completed", "{before}");

    let forgotten = forget_connections(&redis.port().to_string()).await?;
    ensure!(forgotten >= 4, "only {forgotten} connections were there");
    let (begun, mut refused) = (Instant::now(), 0);
    let id = loop {
        match client.accepted(hello_times(2), &[]).await {
            Ok(id) => break id,
            Err(_) => refused += 1,
        }
    };
    let taken = begun.elapsed();
    let after = client.ended(&id).await?;
    let done = begun.elapsed();
    println!(
        "{forgotten} forgotten; {refused} calls refused, a job was taken after {taken:?}, done after {done:?}"
    );
    ensure!(after["status"] == "completed" && after["attempt"] == 1, "{after}");
    ensure!(refused <= 4, "{refused} calls were refused");
    ensure!(done < SOON, "{done:?}");
    drop(worker);
    Ok(())
}
