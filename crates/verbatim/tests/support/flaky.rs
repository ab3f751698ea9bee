//! A way to a server that has bad moods: one for each connection, until they are used up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// All passes.
    Works,
    /// 503 with `Retry-After`, and the server never hears of it.
    Refuses,
    /// The server gets the request; its answer does not come back.
    LosesTheAnswer,
    /// The answer ends after the first event in it.
    BreaksOffAfterAnEvent,
}

/// Listens on a port of its own until it is dropped.
pub(crate) struct Flaky {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
    listener: JoinHandle<()>,
}

impl Flaky {
    /// Stands before the server at `url`.
    pub(crate) async fn start(url: &str, moods: impl IntoIterator<Item = Mood>) -> Result<Self> {
        let server = url.strip_prefix("http://").context("an address")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let mut moods: VecDeque<Mood> = moods.into_iter().collect();
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mood = moods.pop_front().unwrap_or(Mood::Works);
                // One after the other, as the client under test comes: a broken connection is its business.
                drop(pass(client, &server, mood, &seen).await);
            }
        });
        Ok(Self { url, heads, listener })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The head of each connection's first request.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flaky {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn pass(mut client: TcpStream, server: &str, mood: Mood, heads: &Mutex<Vec<String>>) -> Result<()> {
    let head = read_until_blank_line(&mut client).await?;
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&head).into_owned());
    if mood == Mood::Refuses {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        client.write_all(answer).await?;
        client.shutdown().await?;
        // Until the client has read it and hangs up: closing with bytes unread would reset the connection.
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(&head).await?;
    match mood {
        Mood::LosesTheAnswer => {
            let (mut from_client, _to_client) = client.split();
            let (mut from_server, mut to_server) = upstream.split();
            let mut first = [0; 1];
            tokio::select! {
                sent = tokio::io::copy(&mut from_client, &mut to_server) => { sent?; }
                answered = from_server.read(&mut first) => { answered?; }
            }
        }
        Mood::BreaksOffAfterAnEvent => {
            let answer = read_until_blank_line(&mut upstream).await?;
            client.write_all(&answer).await?;
            client.write_all(&read_until_blank_line(&mut upstream).await?).await?;
        }
        Mood::Works | Mood::Refuses => {
            tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        }
    }
    Ok(())
}

/// A head of HTTP, or an event: both end with an empty line.
async fn read_until_blank_line(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") && !read.ends_with(b"\n\n") {
        read.push(stream.read_u8().await?);
    }
    Ok(read)
}
