//! An S3 server with one empty bucket, for a cluster that shares no folder.

#[path = "../../../blobs/tests/s3/support/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the blob store, which need more of it")]
mod server;

pub(crate) use server::TestServer;

pub(crate) const BUCKET: &str = "verbatim-test";
pub(crate) const ACCESS_KEY: &str = "AKTEST";
pub(crate) const SECRET: &str = "a-secret-for-tests";
