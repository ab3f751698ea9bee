//! Finishes: repeated until the store has answered, since they can be repeated, and since renewals go on meanwhile.

use std::time::Duration;

use verbatim_core::failure::JobFailure;
use verbatim_core::job::{Completion, LeaseToken};
use verbatim_core::ports::jobs::Finish;
use verbatim_core::{CancellationToken, ErrorKind, PortError, Refusal};

use crate::backoff::Backoff;
use crate::worker::WorkerPorts;

/// How often a store that does not answer is asked when there is no time to wait for it.
pub(crate) const LAST_TRIES: u32 = 3;

/// How a lease ends.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Complete(Completion),
    Fail(JobFailure),
    Release,
}

impl Ending {
    fn operation(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Fail(_) => "fail",
            Self::Release => "release",
        }
    }
}

/// Ends the lease. `None` when the outcome is unknown: the store refused for a reason that repeating does not mend, or
/// did not answer and `hard` fired. The lease lapses then.
pub(crate) async fn finish(
    ports: &WorkerPorts,
    token: &LeaseToken,
    ending: Ending,
    hard: &CancellationToken,
) -> Option<Finish> {
    let operation = ending.operation();
    let mut backoff = Backoff::for_store(&ports.ids);
    let mut tries_left = LAST_TRIES;
    loop {
        let error = match once(ports, token, ending.clone()).await {
            Ok(finish) => return Some(finish),
            Err(error) => error,
        };
        ports.metrics.store_errors.with_label_values(&[operation]).inc();
        if hard.is_cancelled() {
            tries_left -= 1;
        }
        if !may_pass(&error) || tries_left == 0 {
            tracing::error!(job.id = %token.job_id, operation, %error, "the job could not be finished; its lease will lapse");
            return None;
        }
        tracing::warn!(job.id = %token.job_id, operation, %error, "the job could not be finished; trying again");
        tokio::select! {
            () = backoff.wait() => {}
            () = soon_after(hard) => {}
        }
    }
}

async fn once(ports: &WorkerPorts, token: &LeaseToken, ending: Ending) -> Result<Finish, PortError> {
    match ending {
        Ending::Complete(completion) => ports.leases.complete(token, completion).await,
        Ending::Fail(failure) => ports.leases.fail(token, failure).await,
        Ending::Release => ports.leases.release(token).await,
    }
}

/// Whether the store may answer otherwise later. What is written in words of another version it reads no better then.
pub(crate) fn may_pass(error: &PortError) -> bool {
    error.refusal() != Some(Refusal::OtherVersion)
        && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutOfSpace | ErrorKind::Throttled)
}

async fn soon_after(hard: &CancellationToken) {
    hard.cancelled().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
}
