//! A real S3 server (`s3s` with the files of `s3s-fs`) in this process, on a port and in a folder of its own.
//!
//! `s3s-fs` keeps the protocol, the signatures and the objects. Three things of S3's contract that it leaves out are added
//! here, from what lies in its folder: `ListMultipartUploads`, `If-Match` on reads, and `NoSuchUpload` for an upload that is
//! completed or aborted already. Besides, requests are counted, and can be made to fail.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{ACCESS_KEY, BUCKET, SECRET};

/// An answer in place of the one that a request deserves.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) operation: &'static str,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    /// How many requests get it.
    pub(crate) times: usize,
    /// Whether the request is carried out all the same.
    pub(crate) after: bool,
}

#[derive(Default)]
struct Record {
    faults: Vec<Fault>,
    calls: HashMap<&'static str, usize>,
}

pub(crate) struct TestServer {
    pub(crate) endpoint: String,
    pub(crate) root: tempfile::TempDir,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl TestServer {
    /// A server with one empty bucket.
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let record = Arc::new(Mutex::new(Record::default()));
        let inner = FileSystem::new(root.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(Bucket {
            inner,
            root: root.path().to_owned(),
            record: Arc::clone(&record),
        });
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let connection = hyper::server::conn::http1::Builder::new();
                connections.spawn(async move {
                    let _ = connection.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { endpoint, root, record, task }
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.record.lock().expect("the record").faults.push(fault);
    }

    pub(crate) fn calls(&self, operation: &str) -> usize {
        self.record.lock().expect("the record").calls.get(operation).copied().unwrap_or(0)
    }

    /// Files of uploads that are neither completed nor aborted: their parts, and what is known of them.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        names(self.root.path()).into_iter().filter(|name| name.contains(".upload")).collect()
    }

    pub(crate) fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

struct Bucket {
    inner: FileSystem,
    root: PathBuf,
    record: Arc<Mutex<Record>>,
}

impl Bucket {
    /// Counts the request, and says which fault it is to suffer.
    fn called(&self, operation: &'static str) -> Option<Fault> {
        let mut record = self.record.lock().expect("the record");
        *record.calls.entry(operation).or_default() += 1;
        let fault = record.faults.iter_mut().find(|fault| fault.operation == operation && fault.times > 0)?;
        fault.times -= 1;
        Some(fault.clone())
    }

    /// `NoSuchUpload` unless the upload is unfinished.
    fn known(&self, id: &str) -> S3Result<()> {
        let known = self.root.join(format!(".upload-{id}.json")).exists();
        if known { Ok(()) } else { Err(S3Error::new(S3ErrorCode::NoSuchUpload)) }
    }

    /// The uploads that lie in the folder, by key.
    fn uploads(&self, prefix: &str) -> Vec<MultipartUpload> {
        let mut uploads: Vec<_> = names(&self.root).iter().filter_map(|name| self.upload(name)).collect();
        uploads.retain(|upload| upload.key.as_ref().is_some_and(|key| key.starts_with(prefix)));
        uploads.sort_by(|one, other| (&one.key, &one.upload_id).cmp(&(&other.key, &other.upload_id)));
        uploads
    }

    /// The upload whose metadata is in the file of this name.
    fn upload(&self, name: &str) -> Option<MultipartUpload> {
        let (key, id) =
            name.strip_suffix(".metadata.json")?.split_once(".object-")?.1.split_once(".upload-")?;
        let key = String::from_utf8(URL_SAFE_NO_PAD.decode(key).ok()?).ok()?;
        let begun = std::fs::metadata(self.root.join(name)).ok()?.modified().ok()?;
        Some(MultipartUpload {
            key: Some(key),
            upload_id: Some(id.to_owned()),
            initiated: Some(begun.into()),
            ..Default::default()
        })
    }
}

fn answer(fault: &Fault) -> S3Error {
    let code = S3ErrorCode::from_bytes(fault.code.as_bytes()).expect("a code");
    let mut error = S3Error::new(code);
    error.set_status_code(StatusCode::from_u16(fault.status).expect("a status"));
    if fault.code == "SlowDown" {
        error.set_headers(HeaderMap::from_iter([(http::header::RETRY_AFTER, http::HeaderValue::from(7))]));
    }
    error
}

/// Takes a body to its end, as AWS does before it refuses: a server that hangs up in the middle may be gone before its
/// answer is read.
async fn drain(body: Option<StreamingBlob>) {
    if let Some(mut body) = body {
        while body.next().await.is_some() {}
    }
}

/// The operations, each counted and made to fail as told; what is said of `check` comes before and `amend` after the server's
/// own work.
macro_rules! operations {
    ($($operation:ident: $input:ident => $output:ident, $check:expr, $amend:expr;)*) => {
        #[async_trait]
        impl S3 for Bucket {
            $(async fn $operation(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let fault = self.called(stringify!($operation));
                if let Some(fault) = fault.as_ref().filter(|fault| !fault.after) {
                    return Err(answer(fault));
                }
                let input = request.input.clone();
                let check: fn(&Self, &$input) -> S3Result<()> = $check;
                check(self, &input)?;
                let amend: fn(&$input, &$output) -> S3Result<()> = $amend;
                let response = self.inner.$operation(request).await?;
                amend(&input, &response.output)?;
                match fault {
                    Some(fault) => Err(answer(&fault)),
                    None => Ok(response),
                }
            })*

            async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
                if let Some(fault) = self.called("upload_part") {
                    drain(request.input.body).await;
                    return Err(answer(&fault));
                }
                self.known(&request.input.upload_id)?;
                self.inner.upload_part(request).await
            }

            async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
                if let Some(fault) = self.called("put_object") {
                    drain(request.input.body).await;
                    return Err(answer(&fault));
                }
                self.inner.put_object(request).await
            }

            async fn list_multipart_uploads(
                &self,
                request: S3Request<ListMultipartUploadsInput>,
            ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
                self.called("list_multipart_uploads");
                // A page is two, so that there is more than one.
                let mut left = self.uploads(request.input.prefix.as_deref().unwrap_or_default());
                if let Some(key) = &request.input.key_marker {
                    left.retain(|upload| (&upload.key, &upload.upload_id) > (&Some(key.clone()), &request.input.upload_id_marker));
                }
                let is_truncated = left.len() > 2;
                left.truncate(2);
                let last = left.last().filter(|_| is_truncated).cloned();
                Ok(S3Response::new(ListMultipartUploadsOutput {
                    is_truncated: Some(is_truncated),
                    next_key_marker: last.as_ref().and_then(|last| last.key.clone()),
                    next_upload_id_marker: last.and_then(|last| last.upload_id),
                    uploads: Some(left),
                    ..Default::default()
                }))
            }
        }
    };
}

fn same_version(input: &GetObjectInput, output: &GetObjectOutput) -> S3Result<()> {
    match (&input.if_match, &output.e_tag) {
        (Some(ETagCondition::ETag(wanted)), Some(found)) if !found.strong_cmp(wanted) => {
            Err(S3Error::new(S3ErrorCode::PreconditionFailed))
        }
        _ => Ok(()),
    }
}

operations! {
    head_bucket: HeadBucketInput => HeadBucketOutput, |_, _| Ok(()), |_, _| Ok(());
    head_object: HeadObjectInput => HeadObjectOutput, |_, _| Ok(()), |_, _| Ok(());
    get_object: GetObjectInput => GetObjectOutput, |_, _| Ok(()), same_version;
    delete_object: DeleteObjectInput => DeleteObjectOutput, |_, _| Ok(()), |_, _| Ok(());
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output, |_, _| Ok(()), |_, _| Ok(());
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput, |_, _| Ok(()), |_, _| Ok(());
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
        |bucket, input| bucket.known(&input.upload_id), |_, _| Ok(());
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput,
        |bucket, input| bucket.known(&input.upload_id), |_, _| Ok(());
}
