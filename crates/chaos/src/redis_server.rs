//! A Redis of the harness's own that writes its log every second, on its own disk.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redis::Connection;
use tokio::process::Child;
use tokio::time::Instant;

use crate::node::{Signal, send};
use crate::room::Room;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server.
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    folder: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// A port that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl RedisServer {
    /// Starts one in the room, with these options (`--name value`) besides its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(room: &Room, logs: &Path, options: &[String]) -> Result<Self> {
        let (folder, log) = (room.redis().to_owned(), logs.join("redis.log"));
        let mut server = Self { port: 0, options: options.to_vec(), folder, log, child: None };
        // Nobody holds the free port until the server does.
        for _ in 0..5 {
            server.port = free_port()?;
            if server.launch(room).await.is_ok() {
                return Ok(server);
            }
        }
        bail!("redis-server does not start; is it installed? scripts/setup test installs it")
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL: whatever it has not handed to the kernel is lost.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => Ok(child.kill().await?),
            None => Ok(()),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        send(self.child.as_ref().and_then(Child::id).context("Redis runs")?, signal).await
    }

    /// Keeps what it has written until now. What it had answered by then is in it.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub async fn remember(&self, room: &Room) -> Result<()> {
        let script = "rm -rf \"$0/older\" && cp -r \"$0/appendonlydir\" \"$0/older\"";
        self.in_folder(room, script).await
    }

    /// Forgets, while it does not run, all that it has written since it was told to remember.
    ///
    /// # Errors
    /// When it was never told to.
    pub async fn turn_back(&self, room: &Room) -> Result<()> {
        let script =
            "test -d \"$0/older\" && rm -rf \"$0/appendonlydir\" && cp -r \"$0/older\" \"$0/appendonlydir\"";
        self.in_folder(room, script).await
    }

    async fn in_folder(&self, room: &Room, script: &str) -> Result<()> {
        let done = room.command("sh").args(["-c", script]).arg(&self.folder).status().await?;
        ensure!(done.success(), "Redis's folder: {done}");
        Ok(())
    }

    /// Starts it on its port and data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn launch(&mut self, room: &Room) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut child = room
            .command("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(&self.folder)
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(ended) = child.try_wait()? {
                bail!("redis-server ended: {ended}");
            }
            // While it loads its log it answers with an error.
            if look(self.port, |redis| Ok(redis::cmd("PING").query::<String>(redis)?)).await.is_ok() {
                self.child = Some(child);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("redis-server does not answer")
    }
}

/// Asks a Redis something over a connection of its own, past the proxy.
///
/// # Errors
/// When it cannot be reached, and what `ask` says.
pub async fn look<T: Send + 'static>(
    port: u16,
    ask: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    let asking = tokio::task::spawn_blocking(move || {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        ask(&mut connection)
    });
    asking.await.context("looking into Redis broke off")?
}
