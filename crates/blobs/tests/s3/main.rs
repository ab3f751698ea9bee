//! The bucket adapter: the suite that every adapter must pass, against a real S3 server, and what only a bucket can get
//! wrong.

mod downloads;
mod faults;
mod opening;
mod support;
mod uploads;

use anyhow::{Context, Result};
use bytes::Bytes;
use verbatim_blobs::s3::PART_BYTES;
use verbatim_blobs::{S3Config, S3Store, conformance};
use verbatim_core::ports::blobs::{BlobKey, BlobStore, get_bytes, put_bytes};

use support::{CountingIds, TestServer, config, key, open};

/// Two whole parts and a bit.
const LARGE: usize = 2 * PART_BYTES + 17;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_passes_the_suite_and_keeps_no_unfinished_upload() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    let ids = CountingIds::default();
    conformance::check_all(&store, &ids).await;
    assert_eq!(server.calls("create_multipart_upload"), 0, "one part is one request");
    conformance::check_large(&store, &ids, LARGE).await;
    store.settle().await;
    assert_eq!(server.unfinished(), Vec::<String>::new());
    Ok(())
}

/// Against any other store: `VERBATIM_TEST_S3_ENDPOINT`, `…_BUCKET`, `…_ACCESS_KEY`, `…_SECRET_KEY`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a store that the environment names"]
async fn another_store_passes_the_suite() -> Result<()> {
    let read = |name: &str| std::env::var(format!("VERBATIM_TEST_S3_{name}")).context(name.to_owned());
    let store = S3Store::open(S3Config {
        bucket: read("BUCKET")?,
        endpoint: Some(read("ENDPOINT")?),
        region: None,
        path_style: true,
        prefix: "suite".to_owned(),
        credentials: Some((read("ACCESS_KEY")?, read("SECRET_KEY")?.into())),
    })
    .await?;
    let ids = CountingIds::default();
    conformance::check_all(&store, &ids).await;
    conformance::check_large(&store, &ids, LARGE).await;
    store.settle().await;
    let later = verbatim_core::time::Timestamp::from_millis(i64::MAX);
    let left = store.abort_stale_uploads(std::time::Duration::from_secs(1), later).await?;
    assert_eq!(left, 0, "dropped writers left uploads");
    Ok(())
}

#[tokio::test]
async fn services_with_different_prefixes_share_a_bucket() -> Result<()> {
    let server = TestServer::start().await;
    let with_prefix = |prefix: &str| S3Config { prefix: prefix.to_owned(), ..config(&server.endpoint) };
    let (one, other) = (S3Store::open(with_prefix("one/a")).await?, S3Store::open(with_prefix("one")).await?);
    put_bytes(&one, &key("x"), Bytes::from_static(b"one's")).await?;
    one.ping().await?;
    assert!(server.bucket().join("one/a/audio/x").exists());
    assert_eq!(other.head(&key("x")).await?, None);
    assert!(other.list("", None, 10).await?.is_empty(), "what is no blob of ours is not listed");
    put_bytes(&other, &key("x"), Bytes::from_static(b"the other's")).await?;
    assert_eq!(get_bytes(&one, &key("x")).await?, b"one's");
    assert_eq!(one.list("", None, 10).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_list_goes_past_the_pages_of_the_store() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    let folder = server.bucket().join("audio");
    std::fs::create_dir(&folder)?;
    let names: Vec<String> = (0..2300).map(|number| format!("{number:05}")).collect();
    for name in &names {
        std::fs::write(folder.join(name), name)?;
    }
    std::fs::write(folder.join("00000 not ours"), "")?;

    let all = store.list("audio/", None, 5000).await?;
    assert_eq!(server.calls("list_objects_v2"), 3);
    let wanted: Vec<BlobKey> = names.iter().map(|name| key(name)).collect();
    assert_eq!(all.iter().map(|meta| meta.key.clone()).collect::<Vec<_>>(), wanted);
    let some = store.list("audio/", Some(&wanted[500]), 1200).await?;
    assert_eq!(some.iter().map(|meta| meta.key.clone()).collect::<Vec<_>>(), wanted[501..1701]);
    assert!(store.list("audio/", None, 0).await?.is_empty());
    Ok(())
}
