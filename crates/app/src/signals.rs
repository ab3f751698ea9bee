//! SIGTERM and Ctrl-C without handlers: blocked in every thread, and taken by one thread that waits for them.
//!
//! A blocked signal is never lost. It stays pending while the process is replaced by `exec`, where a handler would be gone
//! before the next image has installed its own; and the kernel keeps it for process 1 as well, for which it throws away
//! whatever has no handler yet. See `docs/adr/0070`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::shutdown::Shutdown;

/// What the listening thread is woken with at its end.
const WAKE: Signal = Signal::SIGUSR1;

/// The signals that end a service, kept pending from now on.
#[derive(Debug)]
pub struct HeldSignals {
    set: SigSet,
}

/// The thread that takes signals.
#[derive(Debug)]
pub struct SignalListener {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<bool>,
}

impl HeldSignals {
    /// Blocks the signals in this thread and in all that it will start. To be called before there are others.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hold() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, WAKE].into_iter().collect();
        set.thread_block()?;
        Ok(Self { set })
    }

    /// Lets the signals do what they do by default, as commands want it; also what an image before this one had blocked.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn let_go(self) -> io::Result<()> {
        Ok(self.set.thread_unblock()?)
    }

    /// Starts the thread that takes them: the first stops `shutdown` softly, the second hard.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn listen(self, shutdown: Shutdown) -> io::Result<SignalListener> {
        let ending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ending);
        let take = move || take(self.set, &shutdown, &told);
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(take)?;
        Ok(SignalListener { ending, thread })
    }
}

impl SignalListener {
    /// Ends the thread. Says whether it took a signal; what comes from now on stays pending.
    ///
    /// # Errors
    /// When the thread cannot be woken or has broken down.
    pub fn end(self) -> io::Result<bool> {
        self.ending.store(true, Ordering::SeqCst);
        kill(Pid::this(), WAKE)?;
        self.thread.join().map_err(|_| io::Error::other("the thread that takes signals broke down"))
    }
}

fn take(set: SigSet, shutdown: &Shutdown, ending: &AtomicBool) -> bool {
    loop {
        match set.wait() {
            Ok(WAKE) if ending.load(Ordering::SeqCst) => return shutdown.told.is_cancelled(),
            // From outside, where it means nothing.
            Ok(WAKE) => {}
            Ok(_) if shutdown.told.is_cancelled() => {
                tracing::warn!("stopping at once");
                shutdown.hard.cancel();
            }
            Ok(_) => {
                tracing::info!("stopping: finishing what is at hand; a second signal gives it back at once");
                shutdown.told.cancel();
                shutdown.soft.cancel();
            }
            Err(error) => {
                tracing::error!(%error, "signals cannot be waited for any more; stopping");
                shutdown.soft.cancel();
                return true;
            }
        }
    }
}
