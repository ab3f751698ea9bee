//! What lies in the bucket: blobs by key, and uploads that nobody will finish.

use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{MultipartUpload, Object};
use verbatim_core::PortError;
use verbatim_core::ports::blobs::{AUDIO_PREFIX, BlobKey, BlobMeta, RESULTS_PREFIX};
use verbatim_core::time::Timestamp;

use super::client::Bucket;
use super::errors::port_error;

/// How many names a store gives at once.
const PAGE: usize = 1000;

/// As [`verbatim_core::ports::BlobStore::list`]. Stores list by the bytes of names, which is the order of keys.
pub(super) async fn list(
    bucket: &Bucket,
    prefix: &str,
    after: Option<&BlobKey>,
    limit: usize,
) -> Result<Vec<BlobMeta>, PortError> {
    let mut found = Vec::new();
    let (mut after, mut next) = (after.map(|key| bucket.object(key)), None);
    while found.len() < limit {
        // One page may hold objects that are not ours, and stores may give less than was asked for.
        let wanted = i32::try_from((limit - found.len()).min(PAGE)).unwrap_or(1000);
        let page = bucket
            .quick
            .list_objects_v2()
            .bucket(&bucket.name)
            .prefix(format!("{}{prefix}", bucket.prefix))
            .set_start_after(after.take())
            .set_continuation_token(next.take())
            .max_keys(wanted)
            .send()
            .await
            .map_err(|error| port_error("cannot list blobs", error))?;
        found.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| meta(bucket, object)));
        next = page.next_continuation_token;
        if page.is_truncated != Some(true) || next.is_none() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn meta(bucket: &Bucket, object: Object) -> Option<BlobMeta> {
    Some(BlobMeta {
        key: bucket.key(&object.key?)?,
        bytes: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        modified_at: timestamp(object.last_modified),
    })
}

/// The store's time as ours; the beginning of time where it says none.
pub(super) fn timestamp(time: Option<aws_sdk_s3::primitives::DateTime>) -> Timestamp {
    Timestamp::from_millis(time.and_then(|time| time.to_millis().ok()).unwrap_or(0))
}

/// Aborts our uploads that were begun more than `age` before `now`, and says how many there were.
pub(super) async fn abort_stale_uploads(
    bucket: &Bucket,
    age: Duration,
    now: Timestamp,
) -> Result<usize, PortError> {
    let mut aborted = 0;
    for kind in [AUDIO_PREFIX, RESULTS_PREFIX] {
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = bucket
                .quick
                .list_multipart_uploads()
                .bucket(&bucket.name)
                .prefix(format!("{}{kind}", bucket.prefix))
                .set_key_marker(key_marker.take())
                .set_upload_id_marker(id_marker.take())
                .send()
                .await
                .map_err(|error| port_error("cannot list unfinished uploads", error))?;
            for upload in page.uploads.unwrap_or_default() {
                // Without a time it may have begun just now.
                let stale = upload.initiated.is_some() && now.since(timestamp(upload.initiated)) > age;
                if stale && abort(bucket, upload).await? {
                    aborted += 1;
                }
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || key_marker.is_none() {
                break;
            }
        }
    }
    Ok(aborted)
}

/// Whether there was an upload to abort.
async fn abort(bucket: &Bucket, upload: MultipartUpload) -> Result<bool, PortError> {
    let Some(object) = upload.key.filter(|object| bucket.key(object).is_some()) else { return Ok(false) };
    let sent = bucket
        .quick
        .abort_multipart_upload()
        .bucket(&bucket.name)
        .key(&object)
        .set_upload_id(upload.upload_id)
        .send()
        .await;
    match sent {
        Ok(_) => {
            tracing::info!(object, "aborted an upload that nobody finished");
            Ok(true)
        }
        // Finished or aborted meanwhile.
        Err(error) if error.code() == Some("NoSuchUpload") => Ok(false),
        Err(error) => Err(port_error("cannot abort an unfinished upload", error)),
    }
}
