//! Serving: one task per connection, all of them owned; a permit for each, shared between addresses; an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use verbatim_admission::{Holder, Pool, PoolConfig, PoolGauge, Reserve, Sizing};
use verbatim_core::CancellationToken;

use crate::connection::{Progress, Timed};

/// How connections are served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections open at the same time, of all clients. One client's address may have seven eighths of them: health
    /// checks always find one.
    pub max_connections: usize,
    /// Networks of proxies, whose connections are those of many clients.
    pub trusted_proxies: Vec<IpNet>,
    /// Time for the first head of a connection, and for each later one from its first byte.
    pub head_timeout: Duration,
    /// Time for which a connection may be idle between two requests.
    pub idle_timeout: Duration,
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
/// Time for telling a client that its connection is refused.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// What a client is told whose connection is refused, before a byte of its request is read.
const REFUSAL: &str = "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"too_many_connections\",\
    \"detail\":\"there are too many connections to this node, or from your address; try again in a moment\"}";

/// Serves `router` on `listener` until `shutdown` fires; then takes no more connections, lets requests in flight end
/// within the grace period, and closes what is left. `gauge` shows the connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    options: ServeOptions,
    gauge: Box<dyn PoolGauge>,
) {
    let ServeOptions { max_connections, trusted_proxies, head_timeout, idle_timeout, grace } = options;
    let sizing = Sizing::fixed(max_connections);
    let pool = Pool::new(PoolConfig { sizing, max_waiting: 0, reserve: Reserve::Eighth }, Vec::new(), gauge);
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut number: u64 = 0;
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = accept(&listener) => next,
            Some(_) = connections.join_next() => continue,
        };
        number += 1;
        let permit = match pool.try_acquire(&holder(peer, number, &trusted_proxies)) {
            Ok(permit) => permit,
            Err(why) => {
                tracing::debug!(%peer, %why, "a connection is refused");
                if let Ok(telling) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(refuse(stream, number, telling));
                }
                continue;
            }
        };
        let progress = Progress::new();
        let router = Extension(ConnectInfo(peer)).layer(router.clone());
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
            .serve_connection(TokioIo::new(Timed::new(stream, progress, head_timeout)), answers);
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "closing connections that did not end within the grace period"
        );
    }
    connections.shutdown().await;
}

/// Whose share of the connections this one is. A proxy brings those of many clients, which it bounds itself: each of its
/// connections counts for nobody else.
fn holder(peer: SocketAddr, number: u64, trusted_proxies: &[IpNet]) -> Holder {
    let address = peer.ip().to_canonical();
    if trusted_proxies.iter().any(|network| network.contains(&address)) {
        Holder::tenant(format!("proxied {number}"))
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
