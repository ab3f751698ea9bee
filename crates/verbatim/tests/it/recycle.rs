//! A worker past a limit goes on as a fresh image of the same process: with its id, its port and whatever program lies at
//! its path by then, without a job that is cut, and without a signal that is lost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, hello_times, wav};
use crate::support::{Client, Server, models};

const RESTARTING: &str = "restarting program=";
const READY: &str = "verbatim_app::service: ready";

/// A Redis, a folder, and how its nodes are set up.
struct Ground {
    folder: tempfile::TempDir,
    redis: RedisServer,
}

impl Ground {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, redis: RedisServer::start(&[]) })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn settings<'a>(&self, url: &'a str) -> [(&'static str, &'a str); 5] {
        [
            ("VERBATIM__REDIS__URL", url),
            ("VERBATIM__AUTH__REQUIRED", "false"),
            ("VERBATIM__WORKER__ENGINES", "fake"),
            ("VERBATIM__WORKER__POLL_MS", "50"),
            ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01"),
        ]
    }

    /// An API node. It is ready when a worker was there.
    async fn api(&self) -> Result<Server> {
        let url = self.redis.url();
        let mut first = self.worker(verbatim(), &[])?;
        let api = Server::start_node("api", self.path(), &self.settings(&url)).await?;
        ensure!(first.terminate().await?.success());
        Ok(api)
    }

    /// A worker by this program, with these settings besides.
    fn worker(&self, program: &Path, settings: &[(&str, &str)]) -> Result<Image> {
        self.started(Command::new(program), "worker", settings)
    }

    /// `command` and the arguments of a node.
    fn started(&self, mut command: Command, role: &str, settings: &[(&str, &str)]) -> Result<Image> {
        let (url, port) = (self.redis.url(), free_port()?);
        let log = (0..).map(|n| self.path().join(format!("recycled-{n}.log"))).find(|log| !log.exists());
        let log = log.context("a name for the log")?;
        command
            .args([role, "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(self.path().join("data"))
            .env("VERBATIM__MODELS__DIR", models())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true);
        if role == "worker" {
            command.envs(self.settings(&url));
        }
        command.envs(settings.iter().copied());
        Ok(Image { child: command.spawn()?, log, url: format!("http://127.0.0.1:{port}") })
    }

    /// A count that Redis keeps.
    async fn count(&self, command: &str, key: &str) -> Result<u64> {
        let port = self.redis.port().to_string();
        let asked = Command::new("redis-cli").args(["-p", &port, command, key]).output().await?;
        Ok(String::from_utf8(asked.stdout)?.trim().parse()?)
    }

    async fn key(&self, ending: &str) -> Result<String> {
        let port = self.redis.port().to_string();
        let asked = Command::new("redis-cli").args(["-p", &port, "KEYS", &format!("*{ending}")]).output();
        Ok(String::from_utf8(asked.await?.stdout)?.trim().to_owned())
    }
}

/// A process whose images follow one another.
struct Image {
    child: Child,
    log: PathBuf,
    url: String,
}

impl Image {
    fn pid(&self) -> Result<u32> {
        self.child.id().context("it runs")
    }

    fn says(&self, what: &str) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.log)?.matches(what).count())
    }

    /// Waits until its images have said so this many times.
    async fn until_said(&mut self, what: &str, times: usize) -> Result<()> {
        while self.says(what)? < times {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended ({status}): {}", std::fs::read_to_string(&self.log)?);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.context("it goes on")??)
    }

    async fn terminate(&mut self) -> Result<ExitStatus> {
        send("-TERM", self.pid()?).await?;
        self.ended().await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

async fn send(signal: &str, pid: u32) -> Result<()> {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().await?;
    ensure!(sent.success(), "{pid} could not be told");
    Ok(())
}

fn verbatim() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_verbatim"))
}

/// A sound that no other number gives.
fn numbered(number: usize) -> Vec<u8> {
    let mut samples = hello();
    samples.push(i16::try_from(number).expect("a small number"));
    wav(16_000, &samples)
}

const ONE_JOB: (&str, &str) = ("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", "1");
const TWO_JOBS: (&str, &str) = ("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", "2");
const ONE_SLOT: (&str, &str) = ("VERBATIM__WORKER__CONCURRENCY", "1");

#[tokio::test]
async fn a_worker_goes_on_after_its_jobs_as_the_same_process() -> Result<()> {
    let ground = Ground::new()?;
    let mut worker = ground.worker(verbatim(), &[TWO_JOBS, ONE_SLOT])?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    worker.until_said(READY, 1).await?;
    let pid = worker.pid()?;
    let open_files = || anyhow::Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    let at_first = open_files()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let mut ids = Vec::new();
    for number in 0..8 {
        ids.push(client.accepted(numbered(number), &[]).await?);
    }
    for id in &ids {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "an attempt was burnt: {job}");
    }
    worker.until_said(READY, 5).await?;
    ensure!(worker.says(RESTARTING)? == 4, "8 jobs, 2 for each image: {}", worker.log());
    ensure!(worker.pid()? == pid && std::fs::read(format!("/proc/{pid}/cmdline"))? == arguments);
    let metrics = Client::new(&worker.url).metrics().await?;
    let restarts = metrics.get("verbatim_worker_restarts_total{reason=\"jobs\"}");
    ensure!(restarts == Some(&4.0), "{restarts:?}");
    ensure!(std::fs::read_dir(ground.path().join("data/scratch"))?.count() == 0, "something is left");
    ensure!(open_files()? <= at_first + 2, "{at_first} open files have become {}", open_files()?);
    // The images before it are gone for the others, too. One offer is that of the worker with which the node began.
    let (offers, workers) = (ground.key("offers:of").await?, ground.key("workers").await?);
    while ground.count("HLEN", &offers).await? != 2 || ground.count("ZCARD", &workers).await? != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(worker.terminate().await?.success());
    ensure!(ground.count("ZCARD", &workers).await? == 0, "one that has ended is no live worker");
    ensure!(ground.count("HLEN", &offers).await? == 2, "what it can do stays known");
    Ok(())
}

#[tokio::test]
async fn no_running_job_is_cut_when_a_worker_of_several_slots_restarts() -> Result<()> {
    let ground = Ground::new()?;
    let slow = ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.2");
    let slots = ("VERBATIM__WORKER__CONCURRENCY", "4");
    let hasty = ("VERBATIM__WORKER__DRAIN_SECS", "0");
    let mut worker = ground.worker(verbatim(), &[TWO_JOBS, slow, slots, hasty])?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    let mut ids = Vec::new();
    for number in 0..24 {
        // Of a tenth of a second to more than one of work each.
        let mut samples = hello().repeat(1 + number % 4);
        samples.push(i16::try_from(number)?);
        ids.push(client.accepted(wav(16_000, &samples), &[]).await?);
    }
    for id in &ids {
        let job = client.ended(id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
    }
    ensure!(worker.says(RESTARTING)? >= 3, "{}", worker.log());
    // A claim that was under way at the end may have been given back; what had begun was not.
    ensure!(worker.says("outcome=Released")? == 0, "a job was cut: {}", worker.log());
    ensure!(worker.terminate().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_signal_around_a_restart_is_never_lost() -> Result<()> {
    let ground = Ground::new()?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    let mut moments = HashSet::new();
    for round in 0..24_u32 {
        let mut worker = ground.worker(verbatim(), &[ONE_JOB, ONE_SLOT])?;
        client.accepted(numbered(round as usize), &[]).await?;
        worker.until_said(RESTARTING, 1).await?;
        // Which moment it hits is what differs; every 4 ms from the last words of the old image on.
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 4)).await;
        let status = worker.terminate().await?;
        ensure!(status.code() == Some(0), "round {round} ended with {status}: {}", worker.log());
        moments.insert(worker.says(READY)?);
    }
    ensure!(moments.contains(&1), "no signal came before the new image was ready");
    Ok(())
}

#[tokio::test]
async fn process_1_answers_signals_at_every_moment() -> Result<()> {
    let ground = Ground::new()?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    for round in 0..8_u32 {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]).arg(verbatim());
        let mut worker = ground.started(command, "worker", &[ONE_JOB, ONE_SLOT])?;
        client.accepted(numbered(round as usize), &[]).await?;
        worker.until_said(RESTARTING, 1).await?;
        let outer = worker.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let first: u32 = children.trim().parse().with_context(|| children.clone())?;
        let inside = std::fs::read_to_string(format!("/proc/{first}/status"))?;
        let is_first = inside.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        ensure!(is_first, "it is not process 1: {inside}");
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 10)).await;
        send("-TERM", first).await?;
        let status = worker.ended().await?;
        ensure!(status.code() == Some(0), "round {round} ended with {status}: {}", worker.log());
    }
    Ok(())
}

#[tokio::test]
async fn the_program_that_lies_there_by_then_is_what_runs_next() -> Result<()> {
    let ground = Ground::new()?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    let (program, next) = (ground.path().join("verbatim"), ground.path().join("next"));
    std::os::unix::fs::symlink(verbatim(), &program)?;
    let mut worker = ground.worker(&program, &[ONE_JOB, ONE_SLOT])?;
    worker.until_said(READY, 1).await?;
    // As an installer does it.
    std::fs::write(&next, "#!/bin/sh\necho \"the next version: $*\" >&2\nexit 7\n")?;
    std::fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&next, &program)?;
    let job = client.ended(&client.accepted(numbered(1), &[]).await?).await?;
    ensure!(job["status"] == "completed", "{job}");
    ensure!(worker.ended().await?.code() == Some(7), "{}", worker.log());
    let port = worker.url.rsplit_once(':').context("a port")?.1;
    let told = format!("the next version: worker --listen 127.0.0.1:{port} --data-dir");
    ensure!(worker.says(&told)? == 1, "{}", worker.log());
    Ok(())
}

#[tokio::test]
async fn a_worker_whose_program_is_gone_ends_with_75() -> Result<()> {
    let ground = Ground::new()?;
    let api = ground.api().await?;
    let client = Client::new(api.url());
    let program = ground.path().join("verbatim");
    std::os::unix::fs::symlink(verbatim(), &program)?;
    let mut worker = ground.worker(&program, &[ONE_JOB, ONE_SLOT])?;
    worker.until_said(READY, 1).await?;
    std::fs::remove_file(&program)?;
    let job = client.ended(&client.accepted(numbered(1), &[]).await?).await?;
    ensure!(job["status"] == "completed", "{job}");
    ensure!(worker.ended().await?.code() == Some(75), "{}", worker.log());
    Ok(())
}

#[tokio::test]
async fn a_service_in_one_process_restarts_itself_over_its_memory_and_keeps_its_port() -> Result<()> {
    let ground = Ground::new()?;
    let settings = [
        ("VERBATIM__WORKER__ENGINES", "fake"),
        ("VERBATIM__FAKE__REAL_TIME_FACTOR", "0.01"),
        ("VERBATIM__WORKER__POLL_MS", "50"),
        ("VERBATIM__WORKER__MAX_RSS_MB", "1"),
    ];
    let mut service = ground.started(Command::new(verbatim()), "serve", &settings)?;
    let client = Client::new(&service.url);
    for number in 0..3 {
        service.until_said(READY, number + 1).await?;
        let id = client.accepted(hello_times(number + 1), &[]).await?;
        service.until_said(RESTARTING, number + 1).await?;
        service.until_said(READY, number + 2).await?;
        let job = client.ended(&id).await?;
        ensure!(job["status"] == "completed" && job["attempt"] == 1, "{job}");
    }
    ensure!(service.terminate().await?.success());
    Ok(())
}
