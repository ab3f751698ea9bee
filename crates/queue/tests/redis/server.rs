//! A Redis server of a test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server; stopped when dropped.
pub(crate) struct RedisServer {
    port: u16,
    /// Held as long as the port is this server's.
    _lock: File,
    options: Vec<String>,
    folder: TempDir,
    child: Option<Child>,
}

/// A port that no other test takes while the lock is held, even when the server that listens on it has died: what a
/// sentinel then found there would be somebody else's master. Below those that the kernel gives to clients; a node of a
/// cluster also takes the one 10,000 above.
fn own_port() -> (u16, File) {
    let folder = std::env::temp_dir().join("verbatim-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let mut random = [0; 2];
    loop {
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).expect("Linux has it");
        let port = 11_000 + u16::from_ne_bytes(random) % 9_000;
        let lock = File::create(folder.join(port.to_string())).expect("a file can be made");
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if lock.try_lock().is_ok() && free(port) && free(port + 10_000) {
            return (port, lock);
        }
    }
}

impl RedisServer {
    /// Starts one with these options (`--name value …`).
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (port, lock) = own_port();
        let mut server = Self { port, _lock: lock, options, folder, child: None };
        assert!(
            server.launch(),
            "redis-server does not start; is it installed? scripts/setup test installs it"
        );
        server
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
        let (own, lock) = own_port();
        let mut sentinel = Self { port: own, _lock: lock, options: Vec::new(), folder, child: None };
        let command = Command::new("redis-server")
            .arg(&file)
            .args(["--sentinel", "--port", &own.to_string(), "--bind", "127.0.0.1"])
            .stdout(Stdio::null())
            .spawn();
        assert!(sentinel.wait_for(command), "redis-server does not start as a sentinel");
        sentinel
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

    /// Starts the stopped server again on its snapshot, with these options, and does not wait until it has read it.
    pub(crate) fn restart_loading(&mut self, options: &[&str]) {
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server is installed"));
        while !listens() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes what it holds to the disk, from where a server without an append-only file starts again.
    pub(crate) fn save(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.write_all(b"SAVE\r\n").expect("it can be told");
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(answer, *b"+OK");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// SIGKILL, from beside; [`Self::kill`] also waits for its end.
    pub(crate) fn die(&self) {
        self.signal("KILL");
    }

    /// SIGSTOP: it hangs, and its connections stay open.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is not sent");
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
