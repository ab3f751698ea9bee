//! Refusals at the start, each with what to do about it, and readiness.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpListener;
use verbatim_blobs::{S3Config, S3Store};
use verbatim_core::ports::blobs::BlobStore;
use verbatim_core::{ErrorKind, PortError};

use super::support::{BUCKET, Fault, TestServer, config, open};

async fn refusal(config: S3Config) -> PortError {
    S3Store::open(config).await.expect_err("the bucket is refused")
}

#[tokio::test]
async fn a_missing_bucket_is_refused_by_name() {
    let server = TestServer::start().await;
    let error = refusal(S3Config { bucket: "no-such-bucket".to_owned(), ..config(&server.endpoint) }).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let wanted = format!(
        "there is no bucket no-such-bucket at {}: create it, or set the name of one that exists",
        server.endpoint
    );
    assert_eq!(error.to_string(), wanted);
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_not_repeated_to_anyone() {
    let server = TestServer::start().await;
    for (key, secret) in [("AKTEST", "another-secret"), ("AKOTHER", "a-secret-for-tests")] {
        let credentials = Some((key.to_owned(), secret.into()));
        let error = refusal(S3Config { credentials, ..config(&server.endpoint) }).await;
        assert_eq!(error.kind(), ErrorKind::Internal);
        let text = error.to_string();
        assert!(
            text.contains("denies access to bucket verbatim-test: check access key and secret"),
            "{text}"
        );
        assert!(!format!("{error:?}").contains(secret));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_unavailable_soon() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    drop(listener);
    let began = Instant::now();
    let error = refusal(config(&endpoint)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with(&format!("{endpoint} does not answer: check that")));
    // Three attempts with short pauses, where a caller would else wait for minutes.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_bucket_of_another_region_is_refused_with_a_hint() {
    let server = TestServer::start().await;
    server.fail(Fault {
        operation: "head_bucket",
        status: 301,
        code: "PermanentRedirect",
        times: 1,
        after: false,
    });
    let error = refusal(config(&server.endpoint)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("check region, endpoint and path_style"), "{error}");
}

#[tokio::test]
async fn readiness_writes_at_first_and_then_looks() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    let looks = server.calls("head_bucket");
    for _ in 0..3 {
        store.ping().await?;
    }
    assert_eq!((server.calls("put_object"), server.calls("head_bucket") - looks), (1, 2));

    std::fs::rename(server.bucket(), server.root.path().join("away"))?;
    assert_eq!(store.ping().await.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
    std::fs::rename(server.root.path().join("away"), server.bucket())?;
    store.ping().await?;
    assert_eq!(server.calls("put_object"), 2, "after a failure a look is not enough");
    Ok(())
}

#[tokio::test]
async fn a_full_store_is_not_ready() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    server.fail(Fault {
        operation: "put_object",
        status: 507,
        code: "XMinioStorageFull",
        times: 1,
        after: false,
    });
    assert_eq!(store.ping().await.map_err(|error| error.kind()), Err(ErrorKind::OutOfSpace));
    store.ping().await?;
    assert!(server.bucket().join("ping").exists(), "{BUCKET}");
    Ok(())
}
