//! A connection whose request heads have to be complete in time, and whose answers have to be read: half a head, sent and
//! left, or an answer that nobody reads costs its client nothing and would hold a connection for as long as it likes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use verbatim_telemetry::limits::{ConnectionEnd, ConnectionsClosed};

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head is arriving, or the very first one is waited for.
    Head,
    /// A request is being answered.
    Request,
    /// The last answer is sent, and nothing of the next request has arrived.
    Idle,
}

/// How soon a connection ends that is asked to, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Yields {
    /// Nothing is under way.
    AtOnce,
    /// When its client has its answer.
    AfterAnswer,
}

/// Half a head that is older than this gives way like nothing at all; a younger one is a request on its way.
const HEAD_SPARED: Duration = Duration::from_secs(1);

/// What a connection is at, as its two ends tell each other: who reads its bytes, and who answers its requests.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    /// Bytes wait for the client to read.
    unread: bool,
    /// Requests so far.
    requests: u64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let state = State { phase: Phase::Head, since: Instant::now(), unread: false, requests: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Phase {
        self.state().phase
    }

    fn set(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        state.since = Instant::now();
        state.requests += u64::from(phase == Phase::Request);
    }

    /// How soon the connection ends if it is asked to, and since when that is so; `None` for one that is not to be asked.
    pub(crate) fn yields(&self) -> Option<(Yields, Instant)> {
        let State { phase, since, unread, requests: _ } = *self.state();
        match phase {
            Phase::Idle if !unread => Some((Yields::AtOnce, since)),
            Phase::Head if since.elapsed() >= HEAD_SPARED => Some((Yields::AtOnce, since)),
            Phase::Head => None,
            Phase::Idle | Phase::Request => Some((Yields::AfterAnswer, since)),
        }
    }

    /// Answers a request with `answering`, and tells when its answer is sent or given up.
    pub(crate) async fn during<E>(
        &self,
        answering: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response, E> {
        self.set(Phase::Request);
        let ended = Ended(self.clone());
        if self.state().requests > 1 {
            // Whoever sends requests without waiting for answers takes turns with other connections.
            tokio::task::yield_now().await;
        }
        Ok(answering.await?.map(|body| Body::new(Answer { body, _ended: ended })))
    }
}

/// Tells by its end that an answer is sent or given up.
struct Ended(Progress);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _ended: Ended,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client that reads fewer bytes a second than these uses up the time that its answers may wait.
const SLOWEST_READER: u32 = 1024;

/// How long bytes may wait for a client that does not read them.
struct Patience {
    most: Duration,
    left: Duration,
    /// Since when bytes wait.
    waiting: Option<Instant>,
    end: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { most, left: most, waiting: None, end: Box::pin(tokio::time::sleep(most)) }
    }

    /// No byte could be written: whether it has waited for too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            self.end.as_mut().reset(now + self.left);
        }
        self.end.as_mut().poll(cx).is_ready()
    }

    /// So many bytes were written.
    fn wrote(&mut self, bytes: usize) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        let earned = Duration::from_secs(bytes as u64) / SLOWEST_READER;
        self.left = (self.left.saturating_sub(waited) + earned).min(self.most);
    }
}

/// The times that a connection is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The first head must be complete so long from the beginning, each later one as long after its first byte.
    pub(crate) head: Duration,
    /// Bytes may wait so long for a client that reads none, and longer in proportion to what it reads.
    pub(crate) unread: Duration,
}

/// Reads a connection for as long as its heads come in time, and writes for as long as its client reads.
pub(crate) struct Timed<I> {
    io: I,
    progress: Progress,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    patience: Patience,
    closed: ConnectionsClosed,
}

impl<I> Timed<I> {
    pub(crate) fn new(io: I, progress: Progress, times: Times, closed: ConnectionsClosed) -> Self {
        let Times { head, unread } = times;
        let deadline = Box::pin(tokio::time::sleep(head));
        Self { io, progress, timeout: head, deadline, patience: Patience::new(unread), closed }
    }

    /// What became of an attempt to write.
    fn written(
        &mut self,
        polled: Poll<std::io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        match &polled {
            Poll::Pending if self.patience.is_over(cx) => {
                self.closed.count(ConnectionEnd::Unread);
                return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
            }
            Poll::Ready(Ok(bytes)) => self.patience.wrote(*bytes),
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        self.progress.state().unread = polled.is_pending();
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Timed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        let arrived = buffer.filled().len() > before;
        if arrived && this.progress.get() == Phase::Idle {
            this.progress.set(Phase::Head);
            this.deadline.as_mut().reset(Instant::now() + this.timeout);
        }
        if this.progress.get() == Phase::Head && this.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Timed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.written(polled, cx)
    }
}
