//! When to stop: the first SIGTERM or Ctrl-C asks for it, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};
use verbatim_core::CancellationToken;

/// The steps of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// A signal has come. The others may fire for reasons of our own.
    pub told: CancellationToken,
    /// Take nothing new, finish what is at hand.
    pub soft: CancellationToken,
    /// Give back at once what is at hand.
    pub hard: CancellationToken,
}

/// Fires `stop` when a signal arrives: for commands that clean up after themselves.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    next(&mut terminate, &mut interrupt).await;
    stop.cancel();
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
