//! A line to a Redis on which things happen to what travels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::server::RedisServer;

#[derive(Default)]
struct State {
    loses_one: AtomicBool,
    /// Connections so far.
    accepted: AtomicUsize,
    /// Connections up to this one carry nothing more, and are not closed either.
    mute: AtomicUsize,
}

/// Stands before a Redis.
pub(crate) struct Line {
    pub(crate) url: String,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

impl Line {
    pub(crate) async fn to(redis: &RedisServer) -> Result<Self> {
        let target = redis.url().trim_start_matches("redis://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(carry(client, target.clone(), number, Arc::clone(&shared)));
            }
        });
        Ok(Self { url, state, _task: AbortOnDropHandle::new(task) })
    }

    /// The next answer is lost, and its connection breaks.
    pub(crate) fn lose_one(&self) {
        self.state.loses_one.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_it(&self) -> bool {
        !self.state.loses_one.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// From now on the connections that are there carry nothing, and nobody tells either side: as when a router in between
    /// has forgotten them. New ones do.
    pub(crate) fn forget_connections(&self) {
        self.forget_the_first(self.accepted());
    }

    /// The same for the first `count` connections.
    pub(crate) fn forget_the_first(&self, count: usize) {
        self.state.mute.store(count, Ordering::SeqCst);
    }
}

async fn carry(
    mut client: TcpStream,
    target: String,
    number: usize,
    state: Arc<State>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let is_mute = || number <= state.mute.load(Ordering::SeqCst);
    loop {
        tokio::select! {
            count = client.read(&mut asked) => match count? {
                0 => return Ok(()),
                _ if is_mute() => {}
                count => server.write_all(&asked[..count]).await?,
            },
            count = server.read(&mut answered) => match count? {
                0 if is_mute() => std::future::pending().await,
                0 => return Ok(()),
                _ if is_mute() => {}
                _ if state.loses_one.swap(false, Ordering::SeqCst) => return Ok(()),
                count => client.write_all(&answered[..count]).await?,
            },
        }
    }
}
