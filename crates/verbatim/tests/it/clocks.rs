//! Nodes whose clocks are wrong: what is due is due by the job store's clock.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

#[tokio::test]
async fn a_deadline_is_counted_by_the_store_whatever_the_clock_of_the_node_that_takes_it_in() -> Result<()> {
    let (folder, redis) = (tempfile::tempdir()?, RedisServer::start(&[]));
    let url = redis.url();
    let settings = [
        ("VERBATIM__REDIS__URL", url.as_str()),
        ("VERBATIM__AUTH__REQUIRED", "false"),
        ("VERBATIM__WORKER__ENGINES", "fake"),
        ("VERBATIM__FAKE__REAL_TIME_FACTOR", "1"),
        ("VERBATIM__WORKER__CONCURRENCY", "1"),
    ];
    let _worker = Server::start_node("worker", folder.path(), &settings).await?;
    let right = Server::start_node("api", folder.path(), &settings).await?;
    let right = Client::new(right.url());
    for (offset, number) in [("-10m", 1), ("+10m", 2)] {
        let node = Server::start_node_at(offset, "api", folder.path(), &settings).await?;
        let client = Client::new(node.url());
        let stats = client.get("/v1/stats").await?;
        ensure!(
            stats["workers"]["data"].as_array().is_some_and(|workers| workers.len() == 1),
            "{offset}: {stats}"
        );
        // Of each its own.
        let sound = |seconds: usize, mark: i16| {
            let mut samples = hello();
            samples.resize(seconds * 16_000, 0);
            samples.extend([number * 1000, mark * 1000]);
            wav(16_000, &samples)
        };
        let whole = ("vad", "false");
        // In the only slot until it is deleted, below.
        let long = right.accepted(sound(120, 1), &[whole]).await?;
        while right.get(&format!("/v1/jobs/{long}")).await?["status"] != "processing" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let late = client.accepted(sound(1, 2), &[whole, ("deadline_secs", "1")]).await?;
        let in_time = client.accepted(sound(1, 3), &[whole, ("deadline_secs", "300")]).await?;
        let late = client.ended(&late).await?;
        ensure!(late["status"] == "failed" && late["error"]["code"] == "expired", "{offset}: {late}");
        let busy = right.get(&format!("/v1/jobs/{long}")).await?;
        ensure!(
            busy["status"] == "processing",
            "{offset}: the deadline fell only when there was room: {busy}"
        );
        right.http.delete(format!("{}/v1/jobs/{long}", right.url)).send().await?.error_for_status()?;
        let in_time = client.ended(&in_time).await?;
        ensure!(in_time["status"] == "completed", "{offset}: {in_time}");
    }
    Ok(())
}
