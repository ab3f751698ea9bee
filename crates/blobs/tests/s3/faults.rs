//! What the store's failures become.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use verbatim_blobs::S3Store;
use verbatim_blobs::s3::PART_BYTES;
use verbatim_core::ports::blobs::{BlobStore, get_bytes, put_bytes};
use verbatim_core::{ErrorKind, PortError};

use super::support::{Fault, TestServer, key, noise, open};

fn fault(operation: &'static str, status: u16, code: &'static str, times: usize) -> Fault {
    Fault { operation, status, code, times, after: false }
}

async fn failed_put(store: &S3Store, len: usize) -> Result<PortError> {
    let put = put_bytes(store, &key("x"), noise(1, len)).await;
    put.err().context("the blob cannot be written")
}

#[tokio::test]
async fn a_full_store_is_out_of_space_whatever_it_calls_that() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    for (status, code) in [(507, "XMinioStorageFull"), (403, "QuotaExceeded"), (507, "WhoKnows")] {
        server.fail(fault("put_object", status, code, 1));
        let error = failed_put(&store, 10).await?;
        assert_eq!((error.kind(), error.is_definite()), (ErrorKind::OutOfSpace, true), "{code}");
        assert_eq!(error.to_string(), "cannot write blob audio/x: the store is full");
    }
    assert_eq!(server.calls("put_object"), 3, "asking again does not make room");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fills_up_during_an_upload_keeps_nothing_of_it() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    for operation in ["create_multipart_upload", "upload_part", "complete_multipart_upload"] {
        server.fail(fault(operation, 507, "XMinioStorageFull", 1));
        let error = failed_put(&store, 3 * PART_BYTES).await.context(operation)?;
        assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{operation}");
        store.settle().await;
        assert_eq!(server.unfinished(), Vec::<String>::new(), "{operation}");
        assert_eq!((store.head(&key("x")).await?, store.buffered_bytes()), (None, 0));
    }
    put_bytes(&store, &key("x"), noise(1, 3 * PART_BYTES)).await?;
    Ok(())
}

#[tokio::test]
async fn a_failed_write_breaks_the_writer() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(fault("upload_part", 507, "XMinioStorageFull", 1));
    let mut writer = store.put_stream(&key("x")).await?;
    let error = writer.write(noise(1, 4 * PART_BYTES)).await.err().context("the first part fails")?;
    assert_eq!(error.kind(), ErrorKind::OutOfSpace);
    assert!(writer.write(Bytes::from_static(b"more")).await.is_err());
    assert!(writer.finish().await.is_err());
    assert_eq!(store.head(&key("x")).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_busy_store_is_asked_again_and_then_says_when_to_come_back() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(fault("put_object", 503, "SlowDown", 2));
    put_bytes(&store, &key("x"), Bytes::from_static(b"third time")).await?;
    assert_eq!(server.calls("put_object"), 3);
    server.fail(fault("put_object", 503, "SlowDown", 3));
    let error = failed_put(&store, 10).await?;
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(Duration::from_secs(7))));
    assert_eq!(get_bytes(&store, &key("x")).await?, b"third time");
    Ok(())
}

#[tokio::test]
async fn a_store_that_fails_is_unavailable_for_every_call() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    for operation in ["get_object", "head_object", "delete_object", "list_objects_v2"] {
        server.fail(fault(operation, 500, "InternalError", 3));
    }
    let kinds = [
        store.get_stream(&key("x")).await.err(),
        store.head(&key("x")).await.err(),
        store.delete(&key("x")).await.err(),
        store.list("", None, 10).await.err(),
    ]
    .map(|error| error.map(|error| (error.kind(), error.is_definite())));
    assert_eq!(kinds, [Some((ErrorKind::Unavailable, false)); 4]);
    Ok(())
}

#[tokio::test]
async fn denied_access_says_so_and_is_a_refusal() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(fault("put_object", 403, "AccessDenied", 1));
    let error = failed_put(&store, 10).await?;
    assert_eq!((error.kind(), error.is_definite()), (ErrorKind::Internal, true));
    assert_eq!(
        error.to_string(),
        "cannot write blob audio/x: the store denies access; check the credentials and what they may do (AccessDenied)"
    );
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_gone_is_no_missing_blob() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(fault("get_object", 404, "NoSuchBucket", 1));
    let error = store.get_stream(&key("x")).await.err().context("no blob")?;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_whose_answer_was_lost_is_one() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(Fault { after: true, ..fault("complete_multipart_upload", 500, "InternalError", 1) });
    let bytes = noise(1, PART_BYTES + 1);
    put_bytes(&store, &key("x"), bytes.clone()).await?;
    assert_eq!(server.calls("complete_multipart_upload"), 2);
    assert!(get_bytes(&store, &key("x")).await? == bytes);

    // An upload that somebody aborted is gone likewise, and no blob came of it.
    server.fail(fault("complete_multipart_upload", 404, "NoSuchUpload", 1));
    let error = put_bytes(&store, &key("y"), bytes).await.err().context("nothing was completed")?;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.head(&key("y")).await?, None);
    Ok(())
}
