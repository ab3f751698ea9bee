//! Deletes many objects in few requests, where the store can.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::StreamExt;
use futures::stream;
use verbatim_core::PortError;
use verbatim_core::ports::blobs::{BlobKey, BlobStore, DELETIONS};

use super::S3Store;
use super::errors::{of_answer, port_error};

/// How many objects S3 deletes in one request.
const BATCH: usize = 1000;

/// As [`BlobStore::delete_many`].
pub(super) async fn delete_many(store: &S3Store, keys: &[BlobKey]) -> Vec<Result<(), PortError>> {
    let mut outcomes = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH) {
        if !store.deletes_one_by_one.load(Ordering::Relaxed) {
            match delete_batch(store, batch).await {
                Ok(done) => {
                    outcomes.extend(done);
                    continue;
                }
                Err(error) if knows_no_batches(&error) => {
                    tracing::info!(
                        error = %port_error("DeleteObjects was refused", error),
                        "the bucket's store deletes objects one by one only"
                    );
                    store.deletes_one_by_one.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    let error = port_error("cannot delete blobs", error);
                    let (kind, message) = (error.kind(), error.to_string());
                    outcomes.extend(batch.iter().map(|_| Err(PortError::new(kind, message.clone()))));
                    continue;
                }
            }
        }
        let mut singly = Vec::with_capacity(batch.len());
        for key in batch {
            singly.push(store.delete(key));
        }
        outcomes.extend(stream::iter(singly).buffered(DELETIONS).collect::<Vec<_>>().await);
    }
    outcomes
}

type Refused = SdkError<aws_sdk_s3::operation::delete_objects::DeleteObjectsError>;

async fn delete_batch(store: &S3Store, batch: &[BlobKey]) -> Result<Vec<Result<(), PortError>>, Refused> {
    let bucket = &store.bucket;
    let identifier = |key| ObjectIdentifier::builder().key(bucket.object(key)).build();
    let objects =
        batch.iter().map(identifier).collect::<Result<_, _>>().map_err(Refused::construction_failure)?;
    // Quiet: the answer names only what could not be deleted. What was not there counts as deleted.
    let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build();
    let delete = delete.map_err(Refused::construction_failure)?;
    let answer = bucket.quick.delete_objects().bucket(&bucket.name).delete(delete).send().await?;
    let mut failed: HashMap<String, PortError> = HashMap::new();
    for error in answer.errors.unwrap_or_default() {
        let code = error.code.as_deref();
        // Each error has a code and no status.
        let (kind, hint) = of_answer(400, code);
        let (object, code) = (error.key.unwrap_or_default(), code.unwrap_or("no code"));
        failed.insert(object, PortError::new(kind, format!("cannot delete a blob: {hint} ({code})")));
    }
    Ok(batch.iter().map(|key| failed.remove(&bucket.object(key)).map_or(Ok(()), Err)).collect())
}

/// Stores that speak only a part of S3, or want a checksum of the request that AWS no longer sends, say so in these ways.
fn knows_no_batches(error: &Refused) -> bool {
    use aws_sdk_s3::error::ProvideErrorMetadata;
    let status = error.raw_response().map(|response| response.status().as_u16());
    matches!(status, Some(405 | 501))
        || matches!(
            error.code(),
            Some("NotImplemented" | "MethodNotAllowed" | "MissingContentMD5" | "InvalidRequest")
        ) && matches!(status, Some(400))
}
