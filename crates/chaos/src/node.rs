//! A process of the cluster and its supervisor: it is started again whenever it ends, as an operator's supervisor would.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Before a process that has ended is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends the process, which does not notice.
    Kill,
    /// Asks it to end.
    Term,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Term => "TERM",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Its exit code, if it had one.
    pub code: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { signal: status.signal(), code: status.code() }
    }
}

/// What a process is running.
#[derive(Debug, Clone, Default)]
struct Running {
    /// Where it listens, once it does.
    url: Option<String>,
    /// Where its log goes.
    log: PathBuf,
}

/// Makes the command of a process, each time it is started.
pub type MakeCommand = Box<dyn Fn() -> Command + Send + Sync>;

type Orders = mpsc::Receiver<(Signal, oneshot::Sender<bool>)>;

/// A supervised process.
pub struct Node {
    name: String,
    logs: PathBuf,
    orders: mpsc::Sender<(Signal, oneshot::Sender<bool>)>,
    running: watch::Receiver<Running>,
    exits: Arc<Mutex<Vec<Exit>>>,
    keep: watch::Sender<bool>,
    supervisor: JoinHandle<Result<()>>,
}

struct Supervisor {
    name: String,
    logs: PathBuf,
    make: MakeCommand,
    orders: Orders,
    running: watch::Sender<Running>,
    exits: Arc<Mutex<Vec<Exit>>>,
    keep: watch::Receiver<bool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// Starts the process; its logs go to this folder, one file for each time it is started.
    pub fn start(name: &str, logs: &Path, make: MakeCommand) -> Self {
        let (orders, receiver) = mpsc::channel(8);
        let (announce, running) = watch::channel(Running::default());
        let (keep, kept) = watch::channel(true);
        let exits = Arc::default();
        let supervisor = Supervisor {
            name: name.to_owned(),
            logs: logs.to_owned(),
            make,
            orders: receiver,
            running: announce,
            exits: Arc::clone(&exits),
            keep: kept,
        };
        let supervisor = tokio::spawn(supervisor.run());
        let (name, logs) = (name.to_owned(), logs.to_owned());
        Self { name, logs, orders, running, exits, keep, supervisor }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens; `None` while it does not.
    pub fn url(&self) -> Option<String> {
        self.running.borrow().url.clone()
    }

    /// Where it listens, once it does.
    ///
    /// # Errors
    /// When it is supervised no more.
    pub async fn listening(&self) -> Result<String> {
        let mut running = self.running.clone();
        let found = running.wait_for(|running| running.url.is_some()).await;
        let url = found.with_context(|| format!("{} is not started any more", self.name))?.url.clone();
        url.context("it was there")
    }

    /// The log of the process that runs now, or ran last.
    pub fn log(&self) -> PathBuf {
        self.running.borrow().log.clone()
    }

    /// Sends a signal. `false` when no process runs at the moment.
    pub async fn signal(&self, signal: Signal) -> bool {
        let (done, sent) = oneshot::channel();
        self.orders.send((signal, done)).await.is_ok() && sent.await.unwrap_or(false)
    }

    /// How its processes ended, those before the one that runs now.
    pub fn exits(&self) -> Vec<Exit> {
        locked(&self.exits).clone()
    }

    /// The same, by the log of each.
    pub fn ends(&self) -> Vec<(PathBuf, Exit)> {
        let logs = (0..).map(|number| log_of(&self.logs, &self.name, number));
        logs.zip(self.exits()).collect()
    }

    /// Asks the process to end, waits until it has, and starts it no more. How it ended; `None` when none was running.
    ///
    /// # Errors
    /// When the process could not be supervised.
    pub async fn stop(self) -> Result<Option<Exit>> {
        let before = self.exits().len();
        self.keep.send_replace(false);
        self.signal(Signal::Cont).await;
        self.signal(Signal::Term).await;
        self.supervisor.await.context("the supervisor broke down")??;
        Ok(locked(&self.exits).get(before..).and_then(|new| new.last().copied()))
    }
}

impl Supervisor {
    async fn run(mut self) -> Result<()> {
        let mut number = 0_usize;
        while *self.keep.borrow() {
            let log = log_of(&self.logs, &self.name, number);
            let (mut child, mut lines) = self.spawn(&log)?;
            self.running.send_replace(Running { url: None, log });
            let exit = self.watch(&mut child, &mut lines).await?;
            self.running.send_modify(|running| running.url = None);
            locked(&self.exits).push(exit.into());
            number += 1;
            tokio::select! {
                () = tokio::time::sleep(RESTART_AFTER) => {}
                _ = self.keep.wait_for(|keep| !keep) => {}
            }
        }
        Ok(())
    }

    fn spawn(&self, log: &Path) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let mut command = (self.make)();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", self.name))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        Ok((child, BufReader::new(stdout).lines()))
    }

    /// Until the process has ended.
    async fn watch(
        &mut self,
        child: &mut Child,
        lines: &mut Lines<BufReader<ChildStdout>>,
    ) -> Result<ExitStatus> {
        let mut reading = true;
        loop {
            tokio::select! {
                ended = child.wait() => return Ok(ended?),
                line = lines.next_line(), if reading => match line {
                    Ok(Some(line)) => self.heard(&line),
                    _ => reading = false,
                },
                Some((signal, done)) = self.orders.recv() => {
                    // Asked here, where nobody else waits for the child: the id is still its own.
                    let sent = match child.id() {
                        Some(id) => send(id, signal).await.is_ok(),
                        None => false,
                    };
                    // Whoever asked may have gone.
                    let _ = done.send(sent);
                }
            }
        }
    }

    fn heard(&self, line: &str) {
        if let Some(url) = line.strip_prefix("listening on ") {
            self.running.send_modify(|running| running.url = Some(url.trim().to_owned()));
        }
    }
}

/// Where the process that was started after so many others writes.
fn log_of(logs: &Path, name: &str, number: usize) -> PathBuf {
    logs.join(format!("{name}.{number}.log"))
}

/// Sends a signal to a process of ours.
///
/// # Errors
/// When it cannot be sent.
pub async fn send(id: u32, signal: Signal) -> Result<()> {
    let mut command = Command::new("kill");
    command.args(["-s", signal.name(), &id.to_string()]).stderr(Stdio::null());
    ensure!(command.status().await?.success(), "process {id} could not be told");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &'static str) -> MakeCommand {
        Box::new(move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        })
    }

    #[tokio::test]
    async fn a_killed_process_is_started_again_and_a_stopped_one_is_not() -> Result<()> {
        let logs = tempfile::tempdir()?;
        let node = Node::start("one", logs.path(), shell("echo listening on $$; exec sleep 1000"));
        let first = node.listening().await?;
        assert!(node.signal(Signal::Kill).await);
        let mut running = node.running.clone();
        running.wait_for(|running| running.url.as_ref().is_some_and(|url| *url != first)).await?;
        assert_eq!(node.exits(), [Exit { signal: Some(9), code: None }]);
        assert!(node.log().ends_with("one.1.log"));
        assert_eq!(node.stop().await?, Some(Exit { signal: Some(15), code: None }));
        Ok(())
    }

    #[tokio::test]
    async fn a_frozen_process_is_let_go_on_before_it_is_stopped() -> Result<()> {
        let logs = tempfile::tempdir()?;
        let node = Node::start(
            "one",
            logs.path(),
            shell("trap 'exit 7' TERM; echo listening on x; while :; do sleep 0.01; done"),
        );
        node.listening().await?;
        assert!(node.signal(Signal::Stop).await);
        assert_eq!(node.stop().await?, Some(Exit { signal: None, code: Some(7) }));
        Ok(())
    }
}
