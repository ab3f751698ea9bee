//! What every blob adapter must do. Each check panics where the store breaks the port's contract, and needs a store in
//! which nothing else writes under the keys it uses.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt;
use verbatim_core::ErrorKind;
use verbatim_core::ids::{IdSource, JobId};
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, get_bytes, put_bytes};

/// Larger than any buffer of an adapter, and not a multiple of one.
const LARGE: usize = 3 * 1024 * 1024 + 17;

/// Runs every check.
pub async fn check_all(store: &dyn BlobStore, ids: &dyn IdSource) {
    check_large(store, ids, LARGE).await;
    an_empty_blob_is_a_blob(store, ids).await;
    finishing_again_replaces_the_whole(store, ids).await;
    what_is_missing_is_told_apart(store, ids).await;
    deleting_touches_one_blob_only(store, ids).await;
    many_are_deleted_and_no_other(store, ids).await;
    listing_goes_by_key_and_in_pages(store, ids).await;
    concurrent_writers_do_not_mix(store, ids).await;
    store.ping().await.expect("a store that works says so");
}

/// Runs the checks of large blobs with blobs of `len` bytes, for adapters that write blobs beyond some size in another way.
pub async fn check_large(store: &dyn BlobStore, ids: &dyn IdSource, len: usize) {
    what_was_finished_is_read_back(store, ids, len).await;
    a_blob_appears_only_when_it_is_finished(store, ids, len).await;
    a_dropped_writer_leaves_nothing(store, ids, len).await;
    a_reader_keeps_what_it_began_to_read(store, ids, len).await;
}

fn upload_key(ids: &dyn IdSource) -> BlobKey {
    BlobKey::for_upload(&JobId::generate(ids))
}

fn result_key(job: &str, name: &str) -> BlobKey {
    BlobKey::parse(&format!("results/{job}/{name}")).expect("a key")
}

/// Bytes that differ from place to place and from `seed` to `seed`.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

async fn put(store: &dyn BlobStore, key: &BlobKey, bytes: &[u8]) {
    put_bytes(store, key, Bytes::copy_from_slice(bytes)).await.expect("the blob is written");
}

async fn get(store: &dyn BlobStore, key: &BlobKey) -> Vec<u8> {
    get_bytes(store, key).await.expect("the blob is read")
}

async fn head(store: &dyn BlobStore, key: &BlobKey) -> Option<BlobMeta> {
    store.head(key).await.expect("the store answers")
}

async fn list(store: &dyn BlobStore, prefix: &str, after: Option<&BlobKey>, limit: usize) -> Vec<BlobKey> {
    let found = store.list(prefix, after, limit).await.expect("the store answers");
    found.into_iter().map(|meta| meta.key).collect()
}

async fn what_was_finished_is_read_back(store: &dyn BlobStore, ids: &dyn IdSource, len: usize) {
    let (key, bytes) = (upload_key(ids), noise(1, len));
    let mut writer = store.put_stream(&key).await.expect("a writer");
    let mut rest = Bytes::from(bytes.clone());
    for len in [0, 1, 4095, 256 * 1024, 1024 * 1024].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        writer.write(rest.split_to(len.min(rest.len()))).await.expect("a piece is written");
    }
    writer.finish().await.expect("the blob is finished");

    assert_eq!(get(store, &key).await, bytes);
    let meta = head(store, &key).await.expect("the blob is known");
    assert_eq!((meta.key, meta.bytes), (key.clone(), len as u64));
    let pieces: Vec<Bytes> =
        store.get_stream(&key).await.expect("a stream").try_collect().await.expect("pieces");
    assert!(pieces.iter().all(|piece| piece.len() <= 1024 * 1024), "a large blob comes in pieces");
}

async fn an_empty_blob_is_a_blob(store: &dyn BlobStore, ids: &dyn IdSource) {
    let key = upload_key(ids);
    store.put_stream(&key).await.expect("a writer").finish().await.expect("finished");
    assert_eq!(get(store, &key).await, b"");
    assert_eq!(head(store, &key).await.map(|meta| meta.bytes), Some(0));
}

async fn a_blob_appears_only_when_it_is_finished(store: &dyn BlobStore, ids: &dyn IdSource, len: usize) {
    let key = upload_key(ids);
    let mut writer = store.put_stream(&key).await.expect("a writer");
    writer.write(Bytes::from(noise(2, len))).await.expect("written");
    assert_eq!(head(store, &key).await, None);
    assert!(list(store, key.as_str(), None, 9).await.is_empty());
    writer.finish().await.expect("finished");
    assert!(head(store, &key).await.is_some());
}

async fn a_dropped_writer_leaves_nothing(store: &dyn BlobStore, ids: &dyn IdSource, len: usize) {
    let key = upload_key(ids);
    let mut writer = store.put_stream(&key).await.expect("a writer");
    writer.write(Bytes::from(noise(3, len))).await.expect("written");
    drop(writer);
    assert_eq!(head(store, &key).await, None);
    assert!(list(store, key.as_str(), None, 9).await.is_empty());
}

async fn finishing_again_replaces_the_whole(store: &dyn BlobStore, ids: &dyn IdSource) {
    let key = upload_key(ids);
    put(store, &key, &noise(4, 5000)).await;
    put(store, &key, b"short").await;
    assert_eq!(get(store, &key).await, b"short");
}

async fn what_is_missing_is_told_apart(store: &dyn BlobStore, ids: &dyn IdSource) {
    for key in [upload_key(ids), result_key(&ids.ulid(), "1-x"), result_key(&ids.ulid(), "deep/er")] {
        let error = store.get_stream(&key).await.err().expect("no stream of what is missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(head(store, &key).await, None);
        store.delete(&key).await.expect("deleting what is missing is fine");
    }
}

async fn deleting_touches_one_blob_only(store: &dyn BlobStore, ids: &dyn IdSource) {
    let job = ids.ulid();
    let (first, second) = (result_key(&job, "1-a"), result_key(&job, "2-b"));
    put(store, &first, b"first").await;
    put(store, &second, b"second").await;
    store.delete(&first).await.expect("deleted");
    assert_eq!(head(store, &first).await, None);
    assert_eq!(get(store, &second).await, b"second");
    store.delete(&second).await.expect("deleted");
    put(store, &first, b"again").await;
    assert_eq!(get(store, &first).await, b"again");
}

async fn many_are_deleted_and_no_other(store: &dyn BlobStore, ids: &dyn IdSource) {
    let job = ids.ulid();
    let keys: Vec<BlobKey> = (0..70).map(|number| result_key(&job, &format!("{number}-a"))).collect();
    for key in &keys[..60] {
        put(store, key, b"x").await;
    }
    let (kept, gone) = (&keys[59], [&keys[..59], &keys[60..]].concat());
    let outcomes = store.delete_many(&gone).await;
    assert_eq!(outcomes.len(), gone.len());
    assert!(outcomes.iter().all(Result::is_ok), "what is there and what is not: {outcomes:?}");
    assert_eq!(list(store, &format!("results/{job}/"), None, 100).await, std::slice::from_ref(kept));
    assert!(store.delete_many(&[]).await.is_empty());
}

async fn a_reader_keeps_what_it_began_to_read(store: &dyn BlobStore, ids: &dyn IdSource, len: usize) {
    let (key, bytes) = (upload_key(ids), noise(5, len));
    put(store, &key, &bytes).await;
    let mut stream = store.get_stream(&key).await.expect("a stream");
    let mut read = stream.try_next().await.expect("a piece").expect("not empty").to_vec();
    put(store, &key, b"another").await;
    while let Some(piece) = stream.try_next().await.expect("a piece") {
        read.extend_from_slice(&piece);
    }
    assert!(read == bytes, "a reader sees one version, whole");
}

async fn listing_goes_by_key_and_in_pages(store: &dyn BlobStore, ids: &dyn IdSource) {
    let job = ids.ulid();
    // `-` sorts before `/`, and `/` before digits and letters.
    let names = ["10-b", "2-a", "2/inner", "20-c", "a_b", "B-c"];
    let keys: BTreeSet<BlobKey> = names.iter().map(|name| result_key(&job, name)).collect();
    for key in &keys {
        put(store, key, key.as_str().as_bytes()).await;
    }
    let prefix = format!("results/{job}/");
    let all: Vec<BlobKey> = keys.into_iter().collect();
    assert_eq!(list(store, &prefix, None, 100).await, all);
    assert_eq!(list(store, &format!("{prefix}2"), None, 100).await, all[1..4]);

    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = list(store, &prefix, after.as_ref(), 4).await;
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 4);
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let sizes: Vec<u64> =
        store.list(&prefix, None, 100).await.expect("a list").iter().map(|meta| meta.bytes).collect();
    let wanted: Vec<u64> = all.iter().map(|key| key.as_str().len() as u64).collect();
    assert_eq!(sizes, wanted);
}

async fn concurrent_writers_do_not_mix(store: &dyn BlobStore, ids: &dyn IdSource) {
    let job = ids.ulid();
    let write = |seed: u8| {
        let key = result_key(&job, &format!("{seed}"));
        async move {
            let mut writer = store.put_stream(&key).await.expect("a writer");
            for piece in noise(seed, 300_000).chunks(70_000) {
                writer.write(Bytes::copy_from_slice(piece)).await.expect("written");
            }
            writer.finish().await.expect("finished");
            (key, seed)
        }
    };
    for (key, seed) in futures::future::join_all((0..16).map(write)).await {
        assert!(get(store, &key).await == noise(seed, 300_000), "blob {seed} is its own");
    }
}
