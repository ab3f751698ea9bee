//! Uploads: memory, what is left behind, many at once.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::FutureExt;
use verbatim_blobs::s3::{PART_BYTES, UPLOAD_MEMORY_BYTES};
use verbatim_core::ports::blobs::{BlobStore, get_bytes, put_bytes};

use super::support::{MIB, TestServer, key, noise, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_holds_two_parts_at_most() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    let bytes = noise(1, 4 * PART_BYTES + MIB + 5);
    let mut writer = store.put_stream(&key("large")).await?;
    let mut held = Vec::new();
    for piece in bytes.chunks(300_000) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
        held.push(store.buffered_bytes());
    }
    writer.finish().await?;
    let most = held.into_iter().max().unwrap_or(0);
    assert!(most > PART_BYTES, "a part is sent while the next one is gathered: {most}");
    assert!(most <= UPLOAD_MEMORY_BYTES, "{most}");
    assert_eq!(store.buffered_bytes(), 0);
    assert_eq!((server.calls("upload_part"), server.calls("put_object")), (5, 0));
    assert!(get_bytes(&store, &key("large")).await? == bytes);
    assert_eq!(server.unfinished(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn blobs_of_whole_parts_have_no_empty_part() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    put_bytes(&store, &key("one"), noise(1, PART_BYTES)).await?;
    assert_eq!((server.calls("put_object"), server.calls("create_multipart_upload")), (1, 0));
    put_bytes(&store, &key("two"), noise(2, 2 * PART_BYTES)).await?;
    assert_eq!((server.calls("put_object"), server.calls("upload_part")), (1, 2));
    for (seed, name) in [(1, "one"), (2, "two")] {
        assert!(get_bytes(&store, &key(name)).await? == noise(seed, usize::from(seed) * PART_BYTES));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_writer_takes_its_parts_out_of_the_bucket() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    // At any point: one part on its way, one arrived, and the store asked to write while nobody waits for it.
    for parts in 1..4 {
        let mut writer = store.put_stream(&key("dropped")).await?;
        writer.write(noise(3, parts * PART_BYTES + 1)).await?;
        drop(writer);
    }
    let mut writer = store.put_stream(&key("dropped")).await?;
    assert!(writer.write(noise(3, 5 * PART_BYTES)).now_or_never().is_none(), "given up half-way");
    let after = writer.write(Bytes::from_static(b"x")).await;
    assert!(after.is_err(), "a blob with a hole is not written");
    drop(writer);

    store.settle().await;
    assert_eq!(server.calls("create_multipart_upload"), 4);
    assert_eq!(server.calls("abort_multipart_upload"), 4);
    assert_eq!(server.unfinished(), Vec::<String>::new());
    assert_eq!(store.buffered_bytes(), 0);
    assert_eq!(store.head(&key("dropped")).await?, None);
    Ok(())
}

/// Begins an upload of two parts in a runtime of its own, and ends that as a kill would: nothing is cleaned up.
fn upload_and_die(endpoint: String, name: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = open(&endpoint).await.expect("the bucket");
        let mut writer = store.put_stream(&key(&name)).await.expect("a writer");
        // The third part is only taken once the first has arrived.
        writer.write(noise(4, 2 * PART_BYTES + 1)).await.expect("written");
        std::mem::forget(writer);
    });
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_the_dead_are_swept_when_they_are_old() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    for number in 0..3 {
        let endpoint = server.endpoint.clone();
        tokio::task::spawn_blocking(move || upload_and_die(endpoint, format!("dead-{number}"))).await?;
    }
    let mut living = store.put_stream(&key("living")).await?;
    living.write(noise(5, 2 * PART_BYTES + 1)).await?;
    put_bytes(&store, &key("clock"), Bytes::from_static(b"now")).await?;
    let now = store.head(&key("clock")).await?.expect("just written").modified_at;

    let hour = Duration::from_secs(3600);
    assert_eq!(store.abort_stale_uploads(hour, now).await?, 0);
    assert!(!server.unfinished().is_empty());
    living.finish().await?;
    assert_eq!(store.abort_stale_uploads(hour, now.plus(2 * hour)).await?, 3);
    assert_eq!(server.unfinished(), Vec::<String>::new());
    assert_eq!(store.abort_stale_uploads(hour, now.plus(2 * hour)).await?, 0);
    assert!(get_bytes(&store, &key("living")).await? == noise(5, 2 * PART_BYTES + 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_at_once_keep_apart() -> Result<()> {
    let server = TestServer::start().await;
    let store = open(&server.endpoint).await?;
    let len = |number: u8| if number.is_multiple_of(8) { PART_BYTES + 1000 } else { 40_000 };
    let upload = |number: u8| {
        let (store, bytes) = (&store, noise(number, len(number)));
        async move {
            let mut writer = store.put_stream(&key(&format!("n{number}"))).await?;
            for piece in bytes.chunks(64 * 1024) {
                writer.write(Bytes::copy_from_slice(piece)).await?;
            }
            writer.finish().await
        }
    };
    futures::future::try_join_all((0..64).map(upload)).await?;
    for number in 0..64 {
        assert!(get_bytes(&store, &key(&format!("n{number}"))).await? == noise(number, len(number)));
    }
    assert_eq!((store.buffered_bytes(), server.unfinished().len()), (0, 0));
    Ok(())
}
