//! The process around a service: the program that it runs, the signals that end it, and its replacement by a fresh image
//! of the same program.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use verbatim_core::ids::WorkerId;
use verbatim_telemetry::metrics::RestartReason;

use crate::exit_code;
use crate::shutdown::Shutdown;
use crate::signals::HeldSignals;

/// Exit code of a service that should have gone on as a fresh image and could not (`EX_TEMPFAIL`): start it again.
const NOT_RESTARTED: u8 = 75;
/// How long the end waits for threads that block, such as those of an engine that does not stop.
const STRAGGLERS: Duration = Duration::from_secs(10);
/// The variable in which an image tells the next one about itself.
const LINEAGE: &str = "VERBATIM_RESTARTED";

/// How a service ended that ended well.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Done,
    /// It is to go on as a fresh image.
    Restart(Restart),
}

/// Why a service goes on as a fresh image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Which limit was passed.
    pub reason: RestartReason,
    /// The worker that ends with this image.
    pub worker: WorkerId,
}

/// What an image knows of those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lineage {
    /// The worker of the image before.
    pub worker: Option<WorkerId>,
    /// Restarts so far, by the label of their reason.
    pub restarts: HashMap<String, u64>,
}

impl Lineage {
    fn followed_by(mut self, restart: Restart) -> Self {
        *self.restarts.entry(restart.reason.label().to_owned()).or_default() += 1;
        Self { worker: Some(restart.worker), ..self }
    }
}

/// What a service gets from its process.
#[derive(Debug)]
pub struct Control {
    /// Tells it to stop.
    pub shutdown: Shutdown,
    /// What there was before it.
    pub lineage: Lineage,
}

/// A process that has just begun.
#[derive(Debug)]
pub struct Process {
    signals: HeldSignals,
    program: io::Result<PathBuf>,
}

impl Process {
    /// Holds the signals and finds out what runs here. The first thing in `main`.
    ///
    /// # Errors
    /// When the system refuses to block signals.
    pub fn begin() -> io::Result<Self> {
        Ok(Self { signals: HeldSignals::hold()?, program: program() })
    }

    /// Runs a command, which signals end.
    pub fn command(self, command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
        let outcome = self.signals.let_go().map_err(anyhow::Error::from);
        exit_code(outcome.and_then(|()| Runtime::new()?.block_on(command)))
    }

    /// Runs a service to its end, and again as a fresh image where it asks for that and no signal has come.
    pub fn service<S>(self, service: impl FnOnce(Control) -> S) -> ExitCode
    where
        S: Future<Output = anyhow::Result<Ending>>,
    {
        let lineage = lineage(std::env::var(LINEAGE).ok().as_deref());
        match run(self.signals, lineage.clone(), service) {
            Ok(Ending::Done) => ExitCode::SUCCESS,
            Ok(Ending::Restart(restart)) => replace(self.program, &lineage.followed_by(restart)),
            Err(error) => exit_code(Err(error)),
        }
    }
}

/// Everything of this image but its main thread has ended when this returns.
fn run<S>(
    signals: HeldSignals,
    lineage: Lineage,
    service: impl FnOnce(Control) -> S,
) -> anyhow::Result<Ending>
where
    S: Future<Output = anyhow::Result<Ending>>,
{
    let shutdown = Shutdown::default();
    let listener = signals.listen(shutdown.clone())?;
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(service(Control { shutdown, lineage }));
    runtime.shutdown_timeout(STRAGGLERS);
    // After all else: until here signals are taken, from here on they stay pending for the next image.
    let told = listener.end()?;
    Ok(if told { outcome.map(|_| Ending::Done)? } else { outcome? })
}

/// Becomes a fresh image of the program, with the same arguments and environment. Returns only when it could not.
fn replace(program: io::Result<PathBuf>, lineage: &Lineage) -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("verbatim"));
    // What was printed is not lost with the image.
    let _ = io::stdout().flush();
    let error = match (program, serde_json::to_string(lineage)) {
        (Ok(program), Ok(lineage)) => {
            tracing::info!(program = %program.display(), "restarting");
            Command::new(program).arg0(name).args(arguments).env(LINEAGE, lineage).exec()
        }
        (Err(error), _) => error,
        (_, Err(error)) => error.into(),
    };
    tracing::error!(%error, "the process could not be replaced by a fresh image; it ends to be started again");
    ExitCode::from(NOT_RESTARTED)
}

/// What the image before has left. Only a figure is lost where it cannot be read.
fn lineage(text: Option<&str>) -> Lineage {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The path by which this program was started: what lies there when the time has come is what runs next.
fn program() -> io::Result<PathBuf> {
    let name = std::env::args_os().next().unwrap_or_default();
    let by_name = named(&name, std::env::var_os("PATH").as_deref());
    let running = std::env::current_exe();
    match (by_name, running) {
        // The name may be anything, such as that of the shell's `exec -a`.
        (Some(path), Ok(running)) if leads_elsewhere(&path, &running) => Ok(running),
        (Some(path), _) => Ok(path),
        (None, running) => running,
    }
}

/// The path that a shell would have found for `name`, links not followed: one that is changed leads to another program.
fn named(name: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    let name = Path::new(name);
    let path = if name.components().count() > 1 || name.is_absolute() {
        name.to_owned()
    } else {
        std::env::split_paths(search?).map(|folder| folder.join(name)).find(|path| path.is_file())?
    };
    std::path::absolute(path).ok()
}

/// Whether `path` is certainly not the way to the program that runs. Nobody can tell once that was replaced.
fn leads_elsewhere(path: &Path, running: &Path) -> bool {
    running.is_file() && path.canonicalize().ok().as_deref() != Some(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: u8) -> WorkerId {
        WorkerId::from_ulid(&format!("{number:026}")).unwrap()
    }

    #[test]
    fn a_lineage_counts_and_survives_the_way_to_the_next_image() {
        let restart = |number, reason| Restart { reason, worker: worker(number) };
        let first = lineage(None).followed_by(restart(1, RestartReason::Jobs));
        let text = serde_json::to_string(&first).unwrap();
        let second = lineage(Some(&text)).followed_by(restart(2, RestartReason::Jobs));
        assert_eq!(second.restarts, HashMap::from([("jobs".to_owned(), 2)]));
        assert_eq!(second.worker, Some(worker(2)));
        assert_eq!(lineage(Some("{\"worker\":7}")), Lineage::default());
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it_and_links_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::create_dir_all(&one).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(one.join("program"), "").unwrap();
        std::os::unix::fs::symlink(one.join("program"), other.join("link")).unwrap();
        let search = std::env::join_paths([&other, &one]).unwrap();
        let found = |name: &str| named(OsStr::new(name), Some(&search));
        assert_eq!(found("program"), Some(one.join("program")));
        assert_eq!(found("link"), Some(other.join("link")));
        assert_eq!(found("nothing"), None);
        let here = std::env::current_dir().unwrap();
        assert_eq!(found("./program"), Some(here.join("program")));
        assert!(!leads_elsewhere(&other.join("link"), &one.join("program").canonicalize().unwrap()));
        assert!(leads_elsewhere(&here, &one.join("program").canonicalize().unwrap()));
        assert!(!leads_elsewhere(&other.join("link"), &one.join("program (deleted)")));
    }
}
