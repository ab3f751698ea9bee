//! Serving: one task per connection, all of them owned; a permit before each; an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Layer;
use verbatim_core::CancellationToken;

/// How connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Connections open at the same time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// A request's head must be complete after so long, counted from the end of the request before it: idle
    /// connections end then, too.
    pub head_timeout: Duration,
    /// How long requests in flight may take to end after `shutdown` has fired.
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        // Longer than proxies keep idle connections (nginx: 60 s): when both ends may close one, a request can be
        // lost in between, so it should be the proxy.
        Self { max_connections: 4096, head_timeout: Duration::from_secs(75), grace: Duration::from_secs(20) }
    }
}

/// The most that is read ahead of a connection, and so the longest head, in bytes.
const READ_BUFFER: usize = 64 * 1024;
/// After `accept` has failed (out of file descriptors, as a rule), wait for things to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown` fires; then takes no more connections, lets requests in flight end
/// within the grace period, and closes what is left.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    options: ServeOptions,
) {
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((permit, accept(&listener).await))
        };
        let (permit, (stream, peer)) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(next) = next => next,
            Some(_) = connections.join_next() => continue,
        };
        let router = Extension(ConnectInfo(peer)).layer(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(options.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "closing connections that did not end within the grace period"
        );
    }
    connections.shutdown().await;
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
