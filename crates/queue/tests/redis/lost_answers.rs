//! Calls whose answer is lost on the way: the store repeats them by itself, and what they did stays as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::JobClient;
use verbatim_core::ports::jobs::DeleteOutcome;
use verbatim_queue::conformance::World;

use crate::server::RedisServer;
use crate::support::RedisHarness;

/// Stands before a Redis, and keeps an answer back when it is told to: the connection breaks instead.
struct Line {
    url: String,
    loses_one: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Line {
    async fn to(redis: &RedisServer) -> Result<Self> {
        let target = redis.url().trim_start_matches("redis://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}", listener.local_addr()?);
        let loses_one = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&loses_one);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), Arc::clone(&flag)));
            }
        });
        Ok(Self { url, loses_one, _task: AbortOnDropHandle::new(task) })
    }

    /// The next answer is lost.
    fn lose_one(&self) {
        self.loses_one.store(true, Ordering::SeqCst);
    }

    fn has_lost_it(&self) -> bool {
        !self.loses_one.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, target: String, loses_one: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            count = client.read(&mut asked) => match count? {
                0 => return Ok(()),
                count => server.write_all(&asked[..count]).await?,
            },
            count = server.read(&mut answered) => match count? {
                0 => return Ok(()),
                _ if loses_one.swap(false, Ordering::SeqCst) => return Ok(()),
                count => client.write_all(&answered[..count]).await?,
            },
        }
    }
}

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_is_done_once() -> Result<()> {
    let redis = RedisServer::start(&[]);
    let line = Line::to(&redis).await?;
    let harness = RedisHarness::at_through(&line.url, &redis.url());
    let world = World::open(&harness).await?;
    let id = world.ticket("talk").await?;
    // Every connection is open.
    for _ in 0..8 {
        world.get(&id).await?;
    }
    let tenant = world.get(&id).await?.tenant;
    line.lose_one();
    let outcome = world.store.delete(&tenant, &id).await?;
    ensure!(line.has_lost_it(), "the line has kept no answer back");
    ensure!(outcome == Some(DeleteOutcome::Cancelled), "{outcome:?}");
    let cancelled = world.store.get(&tenant, &id).await?.context("what was cancelled is still there")?;
    ensure!(cancelled.status == SubmissionStatus::Cancelled, "{cancelled:?}");
    for _ in 0..8 {
        world.get(&id).await?;
    }
    line.lose_one();
    let outcome = world.store.delete(&tenant, &id).await?;
    ensure!(line.has_lost_it(), "the line has kept no answer back");
    ensure!(outcome == Some(DeleteOutcome::Removed), "{outcome:?}");
    ensure!(world.store.get(&tenant, &id).await?.is_none(), "it was removed");
    ensure!(world.store.delete(&tenant, &id).await?.is_none(), "another call finds nothing");
    world.audit().await?;
    Ok(())
}
