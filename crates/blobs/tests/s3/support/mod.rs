//! What the tests of the bucket share: a server on a port of its own, a proxy that breaks connections, and small helpers.

mod proxy;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use verbatim_blobs::{S3Config, S3Store};
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::ports::blobs::BlobKey;

pub(crate) use proxy::Proxy;
pub(crate) use server::{Fault, TestServer};

pub(crate) const MIB: usize = 1024 * 1024;
pub(crate) const BUCKET: &str = "verbatim-test";
pub(crate) const ACCESS_KEY: &str = "AKTEST";
pub(crate) const SECRET: &str = "a-secret-for-tests";

#[derive(Default)]
pub(crate) struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        0.5
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

pub(crate) fn config(endpoint: &str) -> S3Config {
    S3Config {
        bucket: BUCKET.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: None,
        path_style: true,
        prefix: String::new(),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET.into())),
    }
}

pub(crate) async fn open(endpoint: &str) -> Result<S3Store, PortError> {
    S3Store::open(config(endpoint)).await
}

pub(crate) fn key(name: &str) -> BlobKey {
    BlobKey::parse(&format!("audio/{name}")).expect("a key")
}

/// Bytes that differ from place to place and from `seed` to `seed`.
pub(crate) fn noise(seed: u8, len: usize) -> Bytes {
    let mut state = u64::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}
