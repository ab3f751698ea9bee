//! A TCP proxy between everybody and Redis, which cuts, slows and stalls what passes through it.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Everything passes at once.
    Open,
    /// Every piece is late by this much.
    Slow(Duration),
    /// Nothing passes, and no connection breaks: what a lost route looks like.
    Stalled,
}

#[derive(Debug, Clone, Copy)]
struct State {
    line: Line,
    /// Connections that were made before the last cut end.
    cuts: u64,
}

/// The proxy. Listens until it is dropped.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a free port, and leads to `target` on this machine.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, watched) = watch::channel(State { line: Line::Open, cuts: 0 });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, target, watched)));
        Ok(Self { port, state, _accepting: accepting })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// From now on the line is like this.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| state.line = line);
    }
}

async fn accept(listener: TcpListener, target: u16, state: watch::Receiver<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(carry(client, target, state.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, target: u16, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Both sides end when one does, or at a cut: a half-open connection is no better than none.
    tokio::select! {
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state.clone()) => {}
        _ = state.wait_for(|state| state.cuts > cuts) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let line = state.borrow().line;
        if let Line::Slow(delay) = line {
            tokio::time::sleep(delay).await;
        }
        if state.wait_for(|state| state.line != Line::Stalled).await.is_err() {
            return;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives back what it gets.
    async fn echo() -> Result<(u16, AbortOnDropHandle<()>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Ok((port, AbortOnDropHandle::new(serving)))
    }

    async fn echoed(stream: &mut TcpStream, what: &[u8; 2]) -> std::io::Result<[u8; 2]> {
        stream.write_all(what).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_cut_ends_what_there_is_and_lets_new_connections_through() -> Result<()> {
        let (port, _serving) = echo().await?;
        let proxy = Proxy::start(port).await?;
        let mut old = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        assert_eq!(&echoed(&mut old, b"hi").await?, b"hi");
        proxy.cut();
        assert_eq!(old.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let mut new = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        assert_eq!(&echoed(&mut new, b"ho").await?, b"ho");
        Ok(())
    }

    #[tokio::test]
    async fn a_stalled_line_loses_nothing() -> Result<()> {
        let (port, _serving) = echo().await?;
        let proxy = Proxy::start(port).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        assert_eq!(&echoed(&mut stream, b"ok").await?, b"ok");
        proxy.set(Line::Stalled);
        let stalled = tokio::time::timeout(Duration::from_millis(200), echoed(&mut stream, b"hi")).await;
        assert!(stalled.is_err(), "it came through");
        proxy.set(Line::Open);
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hi");
        Ok(())
    }

    #[tokio::test]
    async fn a_slow_line_is_slow() -> Result<()> {
        let (port, _serving) = echo().await?;
        let proxy = Proxy::start(port).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        proxy.set(Line::Slow(Duration::from_millis(50)));
        let begun = tokio::time::Instant::now();
        assert_eq!(&echoed(&mut stream, b"hi").await?, b"hi");
        assert!(begun.elapsed() >= Duration::from_millis(100), "there and back: {:?}", begun.elapsed());
        Ok(())
    }
}
