//! The first look at a bucket, with what to do when it goes wrong.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::head_bucket::HeadBucketError;
use verbatim_core::{ErrorKind, PortError};

use super::client::Bucket;
use super::config::S3Config;
use super::errors::port_error;

/// Asks for the bucket. The answer to HEAD has no body, so that its status is all there is to go by.
pub(super) async fn look(bucket: &Bucket, config: &S3Config) -> Result<(), PortError> {
    match bucket.quick.head_bucket().bucket(&bucket.name).send().await {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(config, error)),
    }
}

fn refusal(config: &S3Config, error: SdkError<HeadBucketError>) -> PortError {
    let (name, place) = (&config.bucket, config.place());
    let response = error.raw_response();
    let status = response.map(|response| response.status().as_u16());
    let region =
        response.and_then(|response| response.headers().get("x-amz-bucket-region")).map(str::to_owned);
    let error = port_error("the first look at the bucket failed", error);
    let elsewhere = || match &region {
        Some(region) => format!("set its region, which is {region}"),
        None => "check region, endpoint and path_style".to_owned(),
    };
    let (kind, message) = match (status, error.kind()) {
        (None, ErrorKind::Unavailable) => (
            ErrorKind::Unavailable,
            format!(
                "{place} does not answer: check that the endpoint is right, runs and can be reached from here"
            ),
        ),
        (None, _) => (
            ErrorKind::Internal,
            format!(
                "no credentials for bucket {name} at {place} were found: set access key and secret, or give this process a \
                 role or profile"
            ),
        ),
        (Some(404), _) => (
            ErrorKind::NotFound,
            format!("there is no bucket {name} at {place}: create it, or set the name of one that exists"),
        ),
        (Some(401 | 403), _) => (
            ErrorKind::Internal,
            format!(
                "{place} denies access to bucket {name}: check access key and secret, and that they may list the bucket and \
                 get, put and delete its objects"
            ),
        ),
        (Some(301 | 307 | 400), _) => {
            (ErrorKind::Invalid, format!("{place} does not serve bucket {name} from here: {}", elsewhere()))
        }
        (Some(status), kind) => {
            (kind, format!("{place} answered {status} when asked for bucket {name}: try again later"))
        }
    };
    PortError::new(kind, message).with_source(error)
}
