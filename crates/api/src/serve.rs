//! Serving: one task per connection, all of them owned; a permit for each, shared between addresses; an orderly end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use verbatim_admission::{Holder, Permit, Pool, PoolConfig, PoolGauge, Refused, Reserve, Sizing};
use verbatim_core::CancellationToken;
use verbatim_telemetry::limits::ConnectionsClosed;

use crate::connection::{Progress, Timed, Times};
use crate::open::Open;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections open at the same time, of all clients. One client's address may have seven eighths of them, and a
    /// sixteenth is for addresses that have none: health checks always find one. When all are in use, idle ones of whoever
    /// has most are closed for addresses that have fewer.
    pub max_connections: usize,
    /// Networks of proxies, whose connections are those of many clients.
    pub trusted_proxies: Vec<IpNet>,
    /// Time for the first head of a connection, and for each later one from its first byte.
    pub head_timeout: Duration,
    /// Time for which a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Time for which bytes may wait for a client that reads none of them; longer in proportion for one that reads slowly.
    pub unread_timeout: Duration,
    /// How long requests in flight may take to end after `shutdown` has fired.
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            trusted_proxies: Vec::new(),
            head_timeout: Duration::from_secs(15),
            // Longer than proxies keep idle connections (nginx: 60 s): when both ends may close one, a request can be
            // lost in between, so it should be the proxy.
            idle_timeout: Duration::from_secs(75),
            unread_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(20),
        }
    }
}

/// The most that is read ahead of a connection, and so the longest head, in bytes.
const READ_BUFFER: usize = 64 * 1024;
/// After `accept` has failed (out of file descriptors, as a rule), wait for things to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Refusals that are being told at once; beyond it a connection is closed without a word.
const MAX_REFUSALS: usize = 64;
/// Connections that wait for room which others are making.
const MAX_WAITING: usize = 64;
/// Time for which they do.
const ROOM_TIME: Duration = Duration::from_secs(1);
/// Time for telling a client that its connection is refused.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// What a client is told whose connection is refused, before a byte of its request is read.
const REFUSAL: &str = "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"too_many_connections\",\
    \"detail\":\"there are too many connections to this node, or from your address; try again in a moment\"}";

/// Where a node shows its connections.
pub struct ServeGauges {
    /// How many there are.
    pub open: Box<dyn PoolGauge>,
    /// Those that it closed.
    pub closed: ConnectionsClosed,
}

/// Serves `router` on `listener` until `shutdown` fires; then takes no more connections, lets requests in flight end
/// within the grace period, and closes what is left.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    options: ServeOptions,
    gauges: ServeGauges,
) {
    let ServeOptions { max_connections, trusted_proxies, head_timeout, idle_timeout, unread_timeout, grace } =
        options;
    let config = PoolConfig {
        sizing: Sizing::fixed(max_connections),
        max_waiting: MAX_WAITING,
        reserve: Reserve::EighthAndNewcomers,
    };
    let node = Node {
        pool: Pool::new(config, Vec::new(), gauges.open),
        open: Open::new(gauges.closed.clone()),
        closed: gauges.closed,
        router,
        times: Times { head: head_timeout, unread: unread_timeout },
        idle_timeout,
        refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        ending: CancellationToken::new(),
    };
    let mut connections = JoinSet::new();
    let mut number: u64 = 0;
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = accept(&listener) => next,
            Some(_) = connections.join_next() => continue,
        };
        number += 1;
        let holder = holder(peer, number, &trusted_proxies);
        let arrived = Arrived { stream, peer, number, holder };
        // Room that others make comes within a moment; who waits for it shares the line by holder as well.
        if node.open.make_room(&arrived.holder, node.pool.lacking(&arrived.holder)) {
            let mut waiting = Box::pin(node.clone().wait_and_serve(arrived));
            // Once here, so that the next one finds it in the line.
            if futures::poll!(&mut waiting).is_pending() {
                connections.spawn(waiting);
            }
            continue;
        }
        match node.pool.try_acquire(&arrived.holder) {
            Ok(permit) => {
                connections.spawn(node.clone().serve(arrived, permit));
            }
            Err(why) => {
                if let Some(refusing) = node.refuse(arrived, why) {
                    connections.spawn(refusing);
                }
            }
        }
    }
    drop(listener);
    node.ending.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "closing connections that did not end within the grace period"
        );
    }
    connections.shutdown().await;
}

/// A connection that has just come.
struct Arrived {
    stream: TcpStream,
    peer: SocketAddr,
    number: u64,
    holder: Holder,
}

/// What all connections of a node share.
#[derive(Clone)]
struct Node {
    pool: Pool,
    open: Open,
    closed: ConnectionsClosed,
    router: Router,
    times: Times,
    idle_timeout: Duration,
    refusals: Arc<Semaphore>,
    /// Fires when no request is taken any more.
    ending: CancellationToken,
}

impl Node {
    /// Serves a connection for which others are making room.
    async fn wait_and_serve(self, arrived: Arrived) {
        match self.pool.acquire(&arrived.holder, ROOM_TIME).await {
            Ok(permit) => self.serve(arrived, permit).await,
            Err(why) => {
                if let Some(refusing) = self.refuse(arrived, why) {
                    refusing.await;
                }
            }
        }
    }

    /// Serves a connection until it ends. Asked to close, it does so after the request under way.
    async fn serve(self, arrived: Arrived, permit: Permit) {
        let Self { pool: _, open, closed, router, times, idle_timeout, refusals: _, ending } = self;
        let Arrived { stream, peer, number, holder } = arrived;
        let (progress, close) = (Progress::new(), ending.child_token());
        // A proxy bounds its connections itself, and a request that it sends into one that closes would be lost.
        let listed = holder.is_known().then(|| open.add(holder, number, progress.clone(), close.clone()));
        let router = Extension(ConnectInfo(peer)).layer(router);
        let answers = {
            let progress = progress.clone();
            service_fn(move |request: hyper::Request<Incoming>| {
                let (router, progress) = (router.clone(), progress.clone());
                async move { progress.during(router.oneshot(request.map(Body::new))).await }
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_timeout)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(Timed::new(stream, progress, times, closed)), answers);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
        // Whoever looks for room must not find a connection whose permit is free already.
        drop(listed);
        drop(permit);
    }

    /// The telling of a refusal; `None` while there are too many to tell all of them.
    fn refuse(&self, arrived: Arrived, why: Refused) -> Option<impl Future<Output = ()> + Send + 'static> {
        let Arrived { stream, peer, number, holder: _ } = arrived;
        tracing::debug!(%peer, %why, "a connection is refused");
        let telling = Arc::clone(&self.refusals).try_acquire_owned().ok()?;
        Some(refuse(stream, number, telling))
    }
}

/// Whose share of the connections this one is. A proxy brings those of many clients, which it bounds itself: each of its
/// connections counts for nobody else.
fn holder(peer: SocketAddr, number: u64, trusted_proxies: &[IpNet]) -> Holder {
    let address = peer.ip().to_canonical();
    if trusted_proxies.iter().any(|network| network.contains(&address)) {
        Holder::unknown(number)
    } else {
        Holder::address(address)
    }
}

/// Tells a client that there is no connection for it. The times to come back are spread by the connection's number.
async fn refuse(mut stream: TcpStream, number: u64, telling: OwnedSemaphorePermit) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{REFUSAL}",
        2 + number % 6,
        REFUSAL.len(),
    );
    // A client that does not listen learns it by the end of its connection.
    let telling_it = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSAL_TIME, telling_it).await;
    drop(telling);
}

/// The next connection, and who is at its other end.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Only latency suffers where this cannot be set.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
