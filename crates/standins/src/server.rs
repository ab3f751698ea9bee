//! A server whose connections can be reset, and which can refuse them for a while.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

/// The connection of a request: cancelling it resets the connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection(pub(crate) CancellationToken);

/// A server on a port of its own. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    wanted: watch::Sender<bool>,
    listens: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    /// Serves what `router` makes of the address.
    pub(crate) async fn start(router: impl FnOnce(SocketAddr) -> Router) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (wanted, wants) = watch::channel(true);
        let (tells, listens) = watch::channel(true);
        let task = tokio::spawn(run(listener, router(address), wants, tells));
        Ok(Self { address, wanted, listens, _task: AbortOnDropHandle::new(task) })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses connections and drops those there are, or listens again; returns when that is so.
    pub(crate) async fn listen(&self, listens: bool) {
        self.wanted.send_replace(listens);
        // The task ends only with the runtime.
        let _ = self.listens.clone().wait_for(|now| *now == listens).await;
    }
}

async fn run(
    listener: TcpListener,
    router: Router,
    mut wanted: watch::Receiver<bool>,
    tells: watch::Sender<bool>,
) {
    let mut listener = Some(listener);
    while let Some(open) = listener.take() {
        let Ok(address) = open.local_addr() else { return };
        accept_until_unwanted(open, &router, &mut wanted).await;
        tells.send_replace(false);
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        listener = Some(bind_again(address).await);
        tells.send_replace(true);
    }
}

async fn accept_until_unwanted(listener: TcpListener, router: &Router, wanted: &mut watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let unwanted = async {
            // A server that nobody holds any more is not wanted either.
            let _ = wanted.wait_for(|wanted| !wanted).await;
        };
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, router.clone()));
            },
            Some(_) = connections.join_next() => {}
            () = unwanted => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The port was ours a moment ago; somebody else may hold it for another.
async fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let reset = CancellationToken::new();
    let connection = Connection(reset.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let answer: BoxFuture<'static, Result<Response, Infallible>> =
            Box::pin(router.clone().oneshot(request));
        answer
    });
    let mut serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A broken connection is the client's affair, and some are broken on purpose.
        _ = &mut serving => {}
        () = reset.cancelled() => {
            let stream = serving.into_parts().io.into_inner();
            // Closing then sends a reset instead of an orderly end.
            let _ = stream.set_zero_linger();
        }
    }
}
