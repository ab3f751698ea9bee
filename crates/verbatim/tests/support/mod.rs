//! A service of the test's own: the real binary on a free port, over a folder of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A bucket of the test's own.
pub(crate) mod bucket;
mod client;
/// Where traces go.
pub(crate) mod collector;
/// Connections in bad times.
pub(crate) mod flaky;
#[path = "../../../queue/tests/redis/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the job store, which need more of it")]
pub(crate) mod redis_server;
pub(crate) mod sound;

pub(crate) use client::Client;

/// The repository's folder.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the models lie.
pub(crate) fn models() -> PathBuf {
    std::env::var_os("VERBATIM_MODELS_DIR").map_or_else(|| repository().join("models"), PathBuf::from)
}

/// `verbatim serve`, ready to answer; killed when dropped.
pub(crate) struct Server {
    url: String,
    child: Child,
    _own_folder: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts it with these settings besides the defaults, over a folder that vanishes with it.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut server = Self::start_in(folder.path(), settings).await?;
        server._own_folder = Some(folder);
        Ok(server)
    }

    /// Starts it with its data in `folder/data`, and waits until it is ready.
    pub(crate) async fn start_in(folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
        command.envs(settings.iter().copied());
        Self::spawn(folder, command).await
    }

    /// Starts a node of a cluster: `command` is `api` or `worker`.
    pub(crate) async fn start_node(command: &str, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_verbatim"));
        process.envs(settings.iter().copied());
        Self::spawn_as(command, folder, process).await
    }

    /// The same, whose clock is wrong by so much: `+10m`, `-10m`. Only by the clock on the wall: pauses last as long as ever.
    pub(crate) async fn start_node_at(
        offset: &str,
        command: &str,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mut process = Command::new("faketime");
        process.args(["-m", "-f", offset, env!("CARGO_BIN_EXE_verbatim")]);
        process.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").envs(settings.iter().copied());
        Self::spawn_as(command, folder, process).await
    }

    /// The same, as soon as it listens: it may wait for something. Also says where it writes its log.
    pub(crate) async fn start_to_listen(
        command: &str,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Result<(Self, PathBuf)> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_verbatim"));
        process.envs(settings.iter().copied());
        Self::spawn_to_listen(command, folder, process).await
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        until_ready(&self.url, &mut self.child).await
    }

    /// Starts it with its data on a disk of its own of this size (as `mount` reads it), which only it can see.
    pub(crate) async fn start_on_small_disk(
        folder: &Path,
        size: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mounted = folder.join("data");
        std::fs::create_dir(&mounted)?;
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && shift 2 && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", size]);
        command.args([mounted.as_os_str(), OsStr::new(env!("CARGO_BIN_EXE_verbatim"))]);
        command.envs(settings.iter().copied());
        Self::spawn(folder, command).await
    }

    async fn spawn(folder: &Path, command: Command) -> Result<Self> {
        Self::spawn_as("serve", folder, command).await
    }

    async fn spawn_as(role: &str, folder: &Path, command: Command) -> Result<Self> {
        let (mut server, log) = Self::spawn_to_listen(role, folder, command).await?;
        server.ready().await.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(server)
    }

    async fn spawn_to_listen(role: &str, folder: &Path, mut command: Command) -> Result<(Self, PathBuf)> {
        let log = (0..)
            .map(|number| if number == 0 { format!("{role}.log") } else { format!("{role}-{number}.log") })
            .map(|name| folder.join(name))
            .find(|log| role == "serve" || !log.exists())
            .context("a name for the log")?;
        let mut child = command
            .args([role, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .env("VERBATIM__MODELS__DIR", models())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let url = match BufReader::new(stdout).lines().next_line().await? {
            Some(line) => line.strip_prefix("listening on ").map(str::to_owned).context(line)?,
            None => anyhow::bail!("the service did not start: {}", std::fs::read_to_string(&log)?),
        };
        Ok((Self { url, child, _own_folder: None }, log))
    }

    /// Where it listens: scheme, address and port.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Memory of the process in RAM.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let id = self.child.id().context("the service runs")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// SIGKILL: no time for goodbyes.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// SIGTERM, and the wait for an orderly end.
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal().await?;
        self.ended().await
    }

    /// SIGTERM.
    pub(crate) async fn signal(&self) -> Result<()> {
        self.send("-TERM").await
    }

    /// SIGSTOP: it does nothing any more, and its connections stay open.
    pub(crate) async fn freeze(&self) -> Result<()> {
        self.send("-STOP").await
    }

    /// SIGCONT.
    pub(crate) async fn thaw(&self) -> Result<()> {
        self.send("-CONT").await
    }

    async fn send(&self, signal: &str) -> Result<()> {
        let id = self.child.id().context("the service runs")?.to_string();
        ensure!(Command::new("kill").args([signal, &id]).status().await?.success(), "it could not be told");
        Ok(())
    }

    /// The wait for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

async fn until_ready(url: &str, child: &mut Child) -> Result<()> {
    loop {
        ensure!(child.try_wait()?.is_none(), "the service ended before it was ready");
        match reqwest::get(format!("{url}/readyz")).await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}
