//! When to stop: the first SIGTERM or Ctrl-C asks for it, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};
use verbatim_core::CancellationToken;

/// The two steps of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what is at hand.
    pub soft: CancellationToken,
    /// Give back at once what is at hand.
    pub hard: CancellationToken,
}

/// Fires `shutdown` as signals arrive. Ends after the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn listen_for_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    next(&mut terminate, &mut interrupt).await;
    tracing::info!("stopping: finishing what is at hand; a second signal gives it back at once");
    shutdown.soft.cancel();
    next(&mut terminate, &mut interrupt).await;
    tracing::warn!("stopping at once");
    shutdown.hard.cancel();
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
