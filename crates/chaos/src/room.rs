//! A mount namespace of the harness's own with two small disks in memory: one for the blobs, which can be filled, and one
//! for Redis. Processes are started inside of it; the harness itself looks in from outside.
//!
//! Redis gets a disk in memory because with `appendfsync everysec` it holds writes back, for up to two seconds, while a
//! slow disk is busy with the `fsync` before: a SIGKILL of Redis would then lose what it had already acknowledged. What is
//! tested here is Verbatim, not the disk.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What fills the disk.
const BALLAST: &str = "ballast";
/// Mounts both disks, says so, and holds the namespace until its input ends: with the harness, however that ends.
const HOLD: &str = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && mount -t tmpfs -o size=1g tmpfs \"$3\" \
    && echo mounted && exec cat";

/// The namespace. Gone, and the disks with it, when it is dropped and the processes in it have ended.
pub struct Room {
    holder: Child,
    id: u32,
    blobs: PathBuf,
    redis: PathBuf,
}

impl Room {
    /// Mounts the disks under `folder`; that for the blobs is of this size.
    ///
    /// # Errors
    /// When this machine allows no mounts in a user namespace.
    pub async fn open(folder: &Path, blobs_mb: u64) -> Result<Self> {
        let (blobs, redis) = (folder.join("data/blobs"), folder.join("redis"));
        for disk in [&blobs, &redis] {
            std::fs::create_dir_all(disk)?;
        }
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", HOLD, "sh", &format!("{blobs_mb}m")])
            .args([&blobs, &redis])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("unshare is missing")?;
        let stdout = holder.stdout.take().context("standard output is piped")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        ensure!(
            line.as_deref() == Some("mounted"),
            "this needs `unshare` and the right to mount a tmpfs in a user namespace"
        );
        let id = holder.id().context("it runs")?;
        Ok(Self { holder, id, blobs, redis })
    }

    /// A command that runs inside, as a process of this same id.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.inside().command(program)
    }

    /// What makes commands run inside.
    pub fn inside(&self) -> Inside {
        Inside(self.id)
    }

    /// Redis's disk, as those inside see it.
    pub fn redis(&self) -> &Path {
        &self.redis
    }

    /// The blobs, as the harness sees them.
    pub fn blobs(&self) -> PathBuf {
        let inside = self.blobs.strip_prefix("/").unwrap_or(&self.blobs);
        Path::new("/proc").join(self.id.to_string()).join("root").join(inside)
    }

    /// Takes all the room that is left for blobs.
    ///
    /// # Errors
    /// When it cannot be taken for another reason than that there is no more.
    pub async fn fill(&self) -> Result<()> {
        let path = self.blobs().join(BALLAST);
        tokio::task::spawn_blocking(move || {
            let mut ballast = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            // Down to the last page.
            for piece in [1 << 20, 4096] {
                loop {
                    match ballast.write_all(&vec![0; piece]) {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::StorageFull => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Ok(())
        })
        .await?
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it cannot.
    pub fn free(&self) -> Result<()> {
        match std::fs::remove_file(self.blobs().join(BALLAST)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Lets go of the namespace.
    ///
    /// # Errors
    /// When the process that holds it cannot be ended.
    pub async fn close(mut self) -> Result<()> {
        Ok(self.holder.kill().await?)
    }
}

/// The way into a room.
#[derive(Debug, Clone, Copy)]
pub struct Inside(u32);

impl Inside {
    /// A command that runs inside, as a process of this same id.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target", &self.0.to_string()]);
        command.arg(program).kill_on_drop(true);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_room_for_blobs_can_be_taken_and_given_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let room = Room::open(folder.path(), 1).await?;
        let writes = async || -> Result<bool> {
            let script = "echo hello > \"$0\"";
            let file = folder.path().join("data/blobs/greeting");
            let mut command = room.command("sh");
            Ok(command.args(["-c", script]).arg(file).stderr(Stdio::null()).status().await?.success())
        };
        assert!(writes().await?);
        std::fs::remove_file(room.blobs().join("greeting"))?;
        room.fill().await?;
        assert!(!writes().await?, "there was room");
        room.free()?;
        assert!(writes().await?);
        assert_eq!(std::fs::read_to_string(room.blobs().join("greeting"))?, "hello\n");
        room.close().await
    }
}
