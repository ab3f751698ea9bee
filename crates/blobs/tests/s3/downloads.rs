//! Downloads: past broken connections, of one version, and by URL.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use verbatim_core::ErrorKind;
use verbatim_core::ports::blobs::{BlobStore, get_bytes, put_bytes};

use super::support::{Fault, MIB, Proxy, TestServer, key, noise, open};

/// More than what fits between a server that sends and a reader that does not read.
const LARGE: usize = 24 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_where_it_broke_off() -> Result<()> {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.endpoint).await;
    let (direct, store) = (open(&server.endpoint).await?, open(&proxy.endpoint).await?);
    let bytes = noise(1, LARGE);
    put_bytes(&direct, &key("x"), bytes.clone()).await?;

    proxy.cut_after(&[3 * MIB, 5 * MIB, 100]);
    let pieces: Vec<Bytes> = store.get_stream(&key("x")).await?.try_collect().await?;
    assert!(pieces.concat() == bytes);
    assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= MIB));
    assert_eq!(proxy.cuts_left(), 0);
    // The third cut hits headers, which is the SDK's business: it asks again by itself.
    assert_eq!(server.calls("get_object"), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_under_a_reader_is_an_error_and_no_end() -> Result<()> {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.endpoint).await;
    let (direct, store) = (open(&server.endpoint).await?, open(&proxy.endpoint).await?);
    put_bytes(&direct, &key("x"), noise(1, LARGE)).await?;

    let mut stream = store.get_stream(&key("x")).await?;
    stream.try_next().await?.context("a piece")?;
    proxy.go_down();
    let rest = stream.try_fold(0, |read, piece| async move { Ok(read + piece.len()) }).await;
    let error = rest.err().context("the rest cannot be read")?;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("reading blob audio/x broke off"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_download_does_not_mix_versions() -> Result<()> {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.endpoint).await;
    let (direct, store) = (open(&server.endpoint).await?, open(&proxy.endpoint).await?);
    let gone =
        Fault { operation: "get_object", status: 503, code: "ServiceUnavailable", times: 1, after: false };
    for replaced in [true, false] {
        put_bytes(&direct, &key("x"), noise(1, LARGE)).await?;
        let mut stream = store.get_stream(&key("x")).await?;
        stream.try_next().await?.context("a piece")?;
        if replaced {
            put_bytes(&direct, &key("x"), noise(2, LARGE)).await?;
        } else {
            direct.delete(&key("x")).await?;
        }
        server.fail(gone.clone());
        proxy.cut_after(&[0]);
        let rest = stream.try_fold(0, |read, piece| async move { Ok(read + piece.len()) }).await;
        let error = rest.err().context("the rest is of another version")?;
        if replaced {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("was replaced"), "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_url_is_read_by_anyone_and_opens_one_blob_only() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    put_bytes(&store, &key("shown"), Bytes::from_static(b"for all to see")).await?;
    put_bytes(&store, &key("other"), Bytes::from_static(b"for nobody")).await?;
    let url = store.presign(&key("shown"), Duration::from_secs(60)).await?.context("a URL")?;
    let answer = reqwest::get(&url).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await?, "for all to see");
    assert_eq!(reqwest::get(url.replace("shown", "other")).await?.status(), 403);
    assert!(!url.contains(super::support::SECRET));

    let month = Duration::from_secs(30 * 24 * 3600);
    let error = store.presign(&key("shown"), month).await.err().context("more than S3 allows")?;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(get_bytes(&store, &key("shown")).await?, b"for all to see");
    Ok(())
}
