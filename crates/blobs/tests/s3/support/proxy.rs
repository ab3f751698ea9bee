//! A proxy between the store and its server that breaks connections when it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    cuts: Cuts,
    down: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// After how many bytes to the client, counted over all connections, the connection that carries them is cut.
#[derive(Clone, Default)]
struct Cuts(Arc<Mutex<VecDeque<usize>>>);

impl Cuts {
    /// How many of `len` bytes may pass, and whether that is the end.
    fn pass(&self, len: usize) -> (usize, bool) {
        let mut cuts = self.0.lock().expect("the cuts");
        match cuts.front_mut() {
            Some(left) if *left >= len => {
                *left -= len;
                (len, false)
            }
            Some(_) => (cuts.pop_front().unwrap_or(0), true),
            None => (len, false),
        }
    }
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let server = server.strip_prefix("http://").expect("a plain address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (cuts, (down, is_down)) = (Cuts::default(), watch::channel(false));
        let passing = cuts.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, cuts, mut is_down) = (server.clone(), passing.clone(), is_down.clone());
                connections.spawn(async move {
                    tokio::select! {
                        _ = is_down.wait_for(|down| *down) => {}
                        _ = carry(client, server, cuts) => {}
                    }
                });
            }
        });
        Self { endpoint, cuts, down, task }
    }

    /// Cuts the connection that carries the next bytes after the first of these, the next one after the second, and so on.
    pub(crate) fn cut_after(&self, bytes: &[usize]) {
        self.cuts.0.lock().expect("the cuts").extend(bytes);
    }

    pub(crate) fn cuts_left(&self) -> usize {
        self.cuts.0.lock().expect("the cuts").len()
    }

    /// Breaks every connection, and every one that comes.
    pub(crate) fn go_down(&self) {
        self.down.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: String, cuts: Cuts) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let len = from_server.read(&mut buffer).await?;
            let (passed, cut) = cuts.pass(len);
            to_client.write_all(&buffer[..passed]).await?;
            if cut || len == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}
