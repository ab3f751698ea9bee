//! A copy of the harness's Redis, and a sentinel that puts it in the place of a master that is silent.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::redis_server::{free_port, look};

/// What the sentinel calls the master.
const NAME: &str = "main";
/// How long a master may be silent.
pub const DOWN_AFTER: Duration = Duration::from_secs(2);
/// How long both may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both processes. They end when it is dropped.
pub struct Sentinel {
    sentinel_port: u16,
    replica_port: u16,
    _processes: [Child; 2],
}

impl Sentinel {
    /// Starts them for the master on this port, and waits until all know each other.
    ///
    /// # Errors
    /// When they do not start.
    pub async fn start(master: u16, folder: &Path) -> Result<Self> {
        let folder = folder.join("sentinel");
        std::fs::create_dir_all(&folder)?;
        let (sentinel_port, replica_port) = (free_port()?, free_port()?);
        let replica = redis(&folder, replica_port, &["--replicaof", &format!("127.0.0.1 {master}")])?;
        let file = folder.join("sentinel.conf");
        let down_after = DOWN_AFTER.as_millis();
        let lines = format!(
            "sentinel monitor {NAME} 127.0.0.1 {master} 1\nsentinel down-after-milliseconds {NAME} {down_after}\n\
             sentinel failover-timeout {NAME} 4000\n"
        );
        std::fs::write(&file, lines)?;
        until(replica_port, "replication", "master_link_status:up").await?;
        let sentinel = redis(&folder, sentinel_port, &[&file.display().to_string(), "--sentinel"])?;
        until(sentinel_port, "sentinel", "slaves=1").await?;
        Ok(Self { sentinel_port, replica_port, _processes: [replica, sentinel] })
    }

    /// How nodes find the master.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/{NAME}", self.sentinel_port)
    }

    /// The copy's port.
    pub fn replica_port(&self) -> u16 {
        self.replica_port
    }

    /// Waits until the copy is the master.
    ///
    /// # Errors
    /// When it does not become the master in time.
    pub async fn until_replaced(&self) -> Result<()> {
        until(self.replica_port, "replication", "role:master").await
    }
}

fn redis(folder: &Path, port: u16, options: &[&str]) -> Result<Child> {
    let mut command = Command::new("redis-server");
    // The configuration file of a sentinel comes first.
    command.args(options).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().context("redis-server is missing")
}

/// Waits until this section of `INFO` says so.
async fn until(port: u16, section: &'static str, says: &'static str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked =
            look(port, move |redis| Ok(redis::cmd("INFO").arg(section).query::<String>(redis)?)).await;
        if asked.is_ok_and(|info| info.contains(says)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "Redis on port {port} does not say {says}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
