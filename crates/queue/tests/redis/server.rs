//! A Redis server of a test's own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server; stopped when dropped.
pub(crate) struct RedisServer {
    port: u16,
    options: Vec<String>,
    folder: TempDir,
    child: Option<Child>,
}

/// A port that is free now. Nobody holds it until the server does; a server that finds it taken ends, and the next try
/// takes another.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

impl RedisServer {
    /// Starts one with these options (`--name value …`).
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port: 0, options, folder, child: None };
        for _ in 0..5 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed? scripts/setup test installs it")
    }

    /// Starts the stopped server again, on the same port and data.
    pub(crate) fn restart(&mut self) {
        assert!(self.launch(), "redis-server does not start again");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn launch(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.folder.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut child) = child else { return false };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            if self.answers() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        false
    }

    fn answers(&self) -> bool {
        let ping = || {
            let mut connection = redis::Client::open(self.url())?.get_connection()?;
            redis::cmd("PING").query::<String>(&mut connection)
        };
        ping().is_ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
