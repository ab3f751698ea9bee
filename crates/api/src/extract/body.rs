//! The body of an upload: bounded in length, in silence, and in how much of it is taken at a time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::StatusCode;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use crate::error::ApiError;
use crate::extract::form;
use crate::state::ApiLimits;

/// Multipart boundaries and part headers may take this much between two fields.
const MAX_STRUCTURE_BYTES: u64 = 64 * 1024;
/// Bytes of the rest of a body that are taken after an early answer to a client that was not let in. Many clients read an
/// answer only once they have sent everything: those that were let in may send it, up to the largest body.
const DRAIN_BYTES: u64 = 1024 * 1024;
/// Time for which the rest of a body is taken at most.
const DRAIN_TIME: Duration = Duration::from_secs(20);
/// Time without a byte after which the rest is given up on.
const DRAIN_IDLE: Duration = Duration::from_secs(1);
/// Time that any body may keep us waiting, however small it is.
const LEAST_TIME: Duration = Duration::from_secs(60);

/// What a body may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The most bytes in all.
    ceiling: u64,
    /// The longest silence between two of them.
    silence: Duration,
    /// Once it has kept us waiting for as long as the longest silence: the fewest bytes a second of waiting.
    floor: u64,
    /// Time that a body of `ceiling` bytes may keep us waiting in all; smaller ones in proportion, and a minute more.
    whole: Duration,
}

impl Bounds {
    /// Those of an upload.
    pub(crate) fn of(limits: &ApiLimits) -> Self {
        Self {
            ceiling: form::ceiling(limits),
            silence: limits.upload_idle,
            floor: limits.min_upload_rate,
            whole: limits.upload_time,
        }
    }

    /// Time that a body of so many bytes may keep us waiting.
    fn time_for(&self, bytes: u64) -> Duration {
        let part = bytes.min(self.ceiling) as f64 / self.ceiling.max(1) as f64;
        LEAST_TIME + self.whole.mul_f64(part)
    }
}

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// More bytes than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// Too much between two fields.
    #[error("the multipart structure is too large")]
    Structure,
    /// No byte, or next to none, for too long.
    #[error("the body stopped arriving")]
    Idle,
    /// Longer under way than its size allows.
    #[error("the body took too long")]
    Slow,
    /// The client went away.
    #[error("the body broke off")]
    Aborted,
}

/// A request's body. Clones share it: one reads, another asks what went wrong, the last one drains.
#[derive(Clone)]
pub(crate) struct UploadBody(Arc<Mutex<Inner>>);

struct Inner {
    stream: BodyDataStream,
    silence: Pin<Box<Sleep>>,
    bounds: Bounds,
    received: u64,
    /// The length that the head declares.
    declared: u64,
    /// Whether its client was let in.
    admitted: bool,
    /// How long the client has kept us waiting in all, and since when it does.
    waited: Duration,
    waits_since: Option<Instant>,
    /// The most bytes before the next field has to begin.
    structure_ceiling: u64,
    /// The multipart parser takes all that is ready before it gives anything on; a pause after every piece keeps it
    /// from taking a fast client's whole file into memory.
    pause: bool,
    /// The client waits for `100 Continue`, which it gets when the body is first asked for.
    awaits_continue: bool,
    ended: bool,
    fault: Option<BodyFault>,
}

impl std::fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadBody")
    }
}

impl UploadBody {
    /// `body` within `bounds`.
    pub(crate) fn new(body: Body, bounds: Bounds, awaits_continue: bool) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(Inner {
            stream: body.into_data_stream(),
            silence: Box::pin(tokio::time::sleep(bounds.silence)),
            bounds,
            received: 0,
            declared: 0,
            admitted: false,
            waited: Duration::ZERO,
            waits_since: None,
            structure_ceiling: MAX_STRUCTURE_BYTES,
            pause: false,
            awaits_continue,
            ended,
            fault: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length that the head declares, where it does: the time that the body may take follows from it.
    pub(crate) fn declared(&self, bytes: Option<u64>) {
        self.lock().declared = bytes.unwrap_or(0);
    }

    /// Its client was let in.
    pub(crate) fn admitted(&self) {
        self.lock().admitted = true;
    }

    /// From here to the next call of [`Self::in_field`], only multipart structure is expected.
    pub(crate) fn between_fields(&self) {
        let mut inner = self.lock();
        inner.structure_ceiling = inner.received + MAX_STRUCTURE_BYTES;
    }

    /// From here on, a field's content is expected.
    pub(crate) fn in_field(&self) {
        self.lock().structure_ceiling = u64::MAX;
    }

    /// What a client is told when the body could not be read: the body's own fault, or that it is malformed.
    pub(crate) fn error(&self, limit: u64) -> ApiError {
        match self.lock().fault {
            Some(BodyFault::TooLarge) => too_large(limit),
            Some(BodyFault::Idle) => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "upload_timeout",
                "the upload stopped arriving; nothing was stored",
            ),
            Some(BodyFault::Slow) => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "upload_timeout",
                "the upload took longer than its size allows; nothing was stored",
            ),
            Some(BodyFault::Aborted) => ApiError::new(
                StatusCode::BAD_REQUEST,
                "upload_aborted",
                "the upload broke off; nothing was stored",
            ),
            Some(BodyFault::Structure) | None => ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_multipart",
                "the body is not well-formed multipart/form-data",
            ),
        }
    }

    /// Whether the client may still be sending.
    pub(crate) fn is_worth_draining(&self) -> bool {
        let inner = self.lock();
        let broken = matches!(inner.fault, Some(BodyFault::Idle | BodyFault::Slow | BodyFault::Aborted));
        !(inner.ended || broken || inner.awaits_continue)
    }

    /// Takes and forgets what the client still sends, within bounds.
    pub(crate) async fn drain(self) {
        let most = {
            let inner = self.lock();
            if inner.admitted { inner.bounds.ceiling } else { DRAIN_BYTES }
        };
        let rest = async {
            let mut taken = 0;
            while taken < most
                && let Ok(Some(Ok(piece))) = tokio::time::timeout(
                    DRAIN_IDLE,
                    std::future::poll_fn(|cx| self.lock().stream.poll_next_unpin(cx)),
                )
                .await
            {
                taken += piece.len() as u64;
            }
        };
        // Either way the connection is in a state that hyper handles: reusable at the end, closed before it.
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

/// 413 for a file of more than `limit` bytes.
pub(crate) fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the file is larger than the {limit} bytes that are accepted here; nothing was stored"),
    )
}

impl Stream for UploadBody {
    type Item = Result<Bytes, BodyFault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lock().poll_piece(cx)
    }
}

impl Inner {
    fn fail(&mut self, fault: BodyFault) -> Poll<Option<Result<Bytes, BodyFault>>> {
        self.fault = Some(fault);
        Poll::Ready(Some(Err(fault)))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        if std::mem::take(&mut self.pause) {
            // The client's silence is measured from here: the time we took to store the last piece is ours.
            self.silence.as_mut().reset(Instant::now() + self.bounds.silence);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.received > self.structure_ceiling {
            return self.fail(BodyFault::Structure);
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.awaits_continue = false;
        let polled = self.stream.poll_next_unpin(cx);
        if polled.is_ready() {
            self.waited += self.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        }
        match polled {
            Poll::Ready(Some(Ok(piece))) => {
                self.received += piece.len() as u64;
                if self.trickles() {
                    return self.fail(BodyFault::Idle);
                }
                if self.waited > self.bounds.time_for(self.received.max(self.declared)) {
                    return self.fail(BodyFault::Slow);
                }
                if self.received > self.bounds.ceiling {
                    return self.fail(BodyFault::TooLarge);
                }
                self.pause = true;
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(BodyFault::Aborted),
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending if self.silence.as_mut().poll(cx).is_ready() => self.fail(BodyFault::Idle),
            Poll::Pending => {
                self.waits_since.get_or_insert_with(Instant::now);
                Poll::Pending
            }
        }
    }

    /// Whether the client, byte by byte, keeps a place that others could use.
    fn trickles(&self) -> bool {
        let floor = self.bounds.floor.saturating_mul(self.waited.as_secs());
        self.waited > self.bounds.silence && self.received < floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::convert::Infallible;

    fn bounds(ceiling: u64, silence_secs: u64) -> Bounds {
        Bounds {
            ceiling,
            silence: Duration::from_secs(silence_secs),
            floor: 1024,
            whole: Duration::from_secs(1800),
        }
    }

    fn body_of(pieces: Vec<&'static [u8]>) -> Body {
        Body::from_stream(stream::iter(
            pieces.into_iter().map(|p| Ok::<_, Infallible>(Bytes::from_static(p))),
        ))
    }

    #[tokio::test]
    async fn pieces_come_one_at_a_time_even_when_all_are_ready() {
        let mut body = UploadBody::new(body_of(vec![b"a", b"b"]), bounds(10, 1), false);
        assert!(matches!(futures::poll!(body.next()), Poll::Ready(Some(Ok(_)))));
        assert!(futures::poll!(body.next()).is_pending());
        assert!(matches!(futures::poll!(body.next()), Poll::Ready(Some(Ok(_)))));
    }

    #[tokio::test]
    async fn the_ceiling_counts_all_pieces() {
        let mut body = UploadBody::new(body_of(vec![b"abc", b"def"]), bounds(5, 1), false);
        assert!(body.next().await.unwrap().is_ok());
        assert_eq!(body.next().await, Some(Err(BodyFault::TooLarge)));
        assert_eq!(body.error(5).status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_an_upload() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let mut body = UploadBody::new(silent, bounds(5, 30), false);
        assert_eq!(body.next().await, Some(Err(BodyFault::Idle)));
        assert_eq!(body.error(5).status, StatusCode::REQUEST_TIMEOUT);
        assert!(!body.is_worth_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_ends_an_upload_and_a_slow_line_does_not() {
        let body_of = |bytes: &'static [u8]| {
            let drops = stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(bytes)), ()))
            });
            UploadBody::new(Body::from_stream(drops.take(100)), bounds(1 << 20, 30), false)
        };
        let mut trickle = body_of(b"x");
        let taken = trickle.by_ref().take_while(|piece| std::future::ready(piece.is_ok())).count().await;
        assert_eq!(taken, 30);
        assert_eq!(trickle.error(5).status, StatusCode::REQUEST_TIMEOUT);

        let slow = body_of(&[0; 1024]);
        slow.in_field();
        assert_eq!(slow.take_while(|piece| std::future::ready(piece.is_ok())).count().await, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_upload_follows_its_size_not_what_its_sender_likes() {
        let mib = 1024 * 1024;
        let of = |declared: Option<u64>, bytes: &'static [u8]| {
            let drops = stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(bytes)), ()))
            });
            let body = UploadBody::new(Body::from_stream(drops), bounds(100 * mib, 30), false);
            body.declared(declared);
            body.in_field();
            body
        };
        let secs = |body: UploadBody| async {
            body.take_while(|piece| std::future::ready(piece.is_ok())).count().await as u64
        };
        // A sender just above the floor has half an hour and a minute for the largest file, and a minute for a small one.
        assert_eq!(secs(of(Some(100 * mib), &[0; 1100])).await, 1860);
        assert_eq!(secs(of(Some(50_000), &[0; 1100])).await, 61);
        // Without a declared length it is what has arrived that counts.
        assert!((60..70).contains(&secs(of(None, &[0; 1100])).await));
        let slow = of(Some(100 * mib), &[0; 1100]);
        let error = slow.clone();
        assert_eq!(secs(slow).await, 1860);
        assert_eq!(error.error(5).code, "upload_timeout");
        // A line of 64 KB a second brings the largest file.
        assert_eq!(secs(of(Some(100 * mib), &[0; 65_536])).await, 1600);
    }

    #[tokio::test]
    async fn the_body_of_a_stranger_is_read_no_further_than_a_megabyte() {
        let taken = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&taken);
        let endless = stream::repeat_with(move || {
            *counted.lock().unwrap() += 65_536;
            Ok::<_, Infallible>(Bytes::from_static(&[0; 65_536]))
        });
        UploadBody::new(Body::from_stream(endless), bounds(u64::MAX, 1), false).drain().await;
        assert_eq!(*taken.lock().unwrap(), DRAIN_BYTES);
    }

    #[tokio::test]
    async fn endless_part_headers_are_refused() {
        let pieces = std::iter::repeat_n(Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])), 1000);
        let endless = Body::from_stream(stream::iter(pieces));
        let mut body = UploadBody::new(endless, bounds(u64::MAX, 1), false);
        body.between_fields();
        let mut taken = 0;
        while let Some(Ok(piece)) = body.next().await {
            taken += piece.len() as u64;
        }
        assert!(taken <= MAX_STRUCTURE_BYTES + 4096);
    }
}
