//! A Redis server of a test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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

    /// A sentinel that watches `master` under this name.
    pub(crate) fn sentinel_of(master: &Self, name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("sentinel.conf");
        let port = master.port;
        let lines = format!(
            "sentinel monitor {name} 127.0.0.1 {port} 1\nsentinel down-after-milliseconds {name} 500\n\
             sentinel failover-timeout {name} 2000\n"
        );
        std::fs::write(&file, lines).expect("it can be written");
        let mut sentinel = Self { port: 0, options: Vec::new(), folder, child: None };
        for _ in 0..5 {
            sentinel.port = free_port();
            let command = Command::new("redis-server")
                .arg(&file)
                .args(["--sentinel", "--port", &sentinel.port.to_string(), "--bind", "127.0.0.1"])
                .stdout(Stdio::null())
                .spawn();
            if sentinel.wait_for(command) {
                return sentinel;
            }
        }
        panic!("redis-server does not start as a sentinel")
    }

    /// A copy of `master`, which follows it.
    pub(crate) fn replica_of(master: &Self) -> Self {
        Self::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)])
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
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
        self.wait_for(child)
    }

    fn wait_for(&mut self, child: std::io::Result<Child>) -> bool {
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

    /// Whether it answers; also when it asks for a password first.
    fn answers(&self) -> bool {
        let ping = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        ping().is_ok_and(|answer| answer == *b"+PONG" || answer == *b"-NOAU")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
