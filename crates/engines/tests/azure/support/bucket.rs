//! A bucket with one file: a blob store that gives out URLs, and the server behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter};
use verbatim_core::{ErrorKind, PortError};

/// What stands for the signature in its URLs.
pub(crate) const SIGNATURE: &str = "signature-of-the-bucket";

/// Serves one file until it is dropped.
pub(crate) struct Bucket {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
    pub(crate) presigned: AtomicUsize,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bucket {
    pub(crate) async fn start(file: Vec<u8>) -> Arc<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let file = Arc::new(file);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&file)));
            }
        });
        Arc::new(Self { address, task, presigned: AtomicUsize::new(0) })
    }
}

async fn serve(mut stream: TcpStream, file: Arc<Vec<u8>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let status = if String::from_utf8_lossy(&head).contains(SIGNATURE) { "200 OK" } else { "403 Forbidden" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", file.len());
    // A reader that went away is no concern of the bucket.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.write_all(&file).await;
}

fn unused<T>() -> Result<T, PortError> {
    Err(PortError::new(ErrorKind::Internal, "the engine only asks for URLs"))
}

#[async_trait]
impl BlobStore for Bucket {
    async fn put_stream(&self, _: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        unused()
    }

    async fn get_stream(
        &self,
        _: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        unused()
    }

    async fn head(&self, _: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        unused()
    }

    async fn delete(&self, _: &BlobKey) -> Result<(), PortError> {
        unused()
    }

    async fn list(&self, _: &str, _: Option<&BlobKey>, _: usize) -> Result<Vec<BlobMeta>, PortError> {
        unused()
    }

    async fn presign(&self, key: &BlobKey, _: Duration) -> Result<Option<String>, PortError> {
        self.presigned.fetch_add(1, Ordering::Relaxed);
        Ok(Some(format!("http://{}/{key}?X-Amz-Signature={SIGNATURE}", self.address)))
    }

    async fn ping(&self) -> Result<(), PortError> {
        unused()
    }
}

/// A folder: it has no URLs.
pub(crate) struct NoUrls(pub(crate) Arc<Bucket>);

#[async_trait]
impl BlobStore for NoUrls {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        self.0.put_stream(key).await
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        self.0.get_stream(key).await
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        self.0.head(key).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        self.0.delete(key).await
    }

    async fn list(&self, _: &str, _: Option<&BlobKey>, _: usize) -> Result<Vec<BlobMeta>, PortError> {
        unused()
    }

    async fn presign(&self, _: &BlobKey, _: Duration) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), PortError> {
        unused()
    }
}
