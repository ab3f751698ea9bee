//! A connection whose request heads have to be complete in time: half a head, sent and left, costs its sender nothing and
//! would hold a connection for as long as an idle one may stay.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

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

/// What a connection is at, as its two ends tell each other: who reads its bytes, and who answers its requests.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Phase>>);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Head)))
    }

    fn get(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Answers a request with `answering`, and tells when its answer is sent or given up.
    pub(crate) async fn during<E>(
        &self,
        answering: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response, E> {
        self.set(Phase::Request);
        let ended = Ended(self.clone());
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

/// Reads a connection for as long as its heads come in time.
pub(crate) struct Timed<I> {
    io: I,
    progress: Progress,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl<I> Timed<I> {
    /// The first head must be complete `timeout` from now, each later one as long after its first byte.
    pub(crate) fn new(io: I, progress: Progress, timeout: Duration) -> Self {
        Self { io, progress, timeout, deadline: Box::pin(tokio::time::sleep(timeout)) }
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
        Pin::new(&mut self.io).poll_write(cx, bytes)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
