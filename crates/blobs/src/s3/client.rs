//! The SDK's clients: one per patience, over one pool of connections.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use secrecy::ExposeSecret;
use verbatim_core::ports::blobs::BlobKey;

use super::config::{DEFAULT_REGION, S3Config};

const CONNECT: Duration = Duration::from_secs(3);
/// How often a request is sent before its failure is one.
const ATTEMPTS: u32 = 3;
/// An upload that moves not one byte for so long is broken off and sent again.
const STALLED: Duration = Duration::from_secs(20);

/// How long the three clients wait for an attempt, and for all attempts of a request together.
const QUICK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// Long enough for a part of 8 MiB at half a megabit per second, and for a store that puts many parts together.
const PATIENT: (Duration, Duration) = (Duration::from_secs(150), Duration::from_secs(300));
/// A probe is asked again soon, and its caller waits for two seconds or so.
const PROBE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(5));

/// The bucket: clients that can reach it, and where in it our keys lie.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// Empty, or ends with `/`.
    pub(super) prefix: String,
    /// For requests that are answered at once.
    pub(super) quick: Client,
    /// For requests that carry a part of a blob, or put one together.
    pub(super) patient: Client,
    /// For readiness.
    pub(super) probe: Client,
}

impl Bucket {
    /// Clients for the bucket, which is not asked for anything yet.
    pub(super) async fn new(config: &S3Config, prefix: String) -> Self {
        let shared = builder(config).await;
        let client = |(attempt, whole): (Duration, Duration), attempts| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(attempt)
                .operation_timeout(whole);
            let retries = RetryConfig::standard()
                .with_max_attempts(attempts)
                .with_initial_backoff(Duration::from_millis(200))
                .with_max_backoff(Duration::from_secs(5));
            Client::from_conf(shared.clone().timeout_config(timeouts.build()).retry_config(retries).build())
        };
        Self {
            name: config.bucket.clone(),
            prefix,
            quick: client(QUICK, ATTEMPTS),
            patient: client(PATIENT, ATTEMPTS),
            probe: client(PROBE, 1),
        }
    }

    /// The name of the object that holds the blob.
    pub(super) fn object(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The blob that an object holds; `None` for objects that are not ours.
    pub(super) fn key(&self, object: &str) -> Option<BlobKey> {
        BlobKey::parse(object.strip_prefix(&self.prefix)?).ok()
    }
}

async fn builder(config: &S3Config) -> Builder {
    let version = BehaviorVersion::v2026_01_12();
    let http = http_client();
    let region = config.region.clone().map(Region::new);
    let builder = if let Some((key, secret)) = &config.credentials {
        let credentials = Credentials::new(key, secret.expose_secret(), None, None, "configuration");
        let region = region.unwrap_or(Region::from_static(DEFAULT_REGION));
        Builder::new().behavior_version(version).region(region).credentials_provider(credentials)
    } else {
        // The machine's metadata is not asked for a region: elsewhere than on AWS that only costs time.
        let region = RegionProviderChain::first_try(region)
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(DEFAULT_REGION);
        Builder::from(&aws_config::defaults(version).region(region).http_client(http.clone()).load().await)
    };
    let builder = match &config.endpoint {
        Some(endpoint) => builder.endpoint_url(endpoint),
        None => builder,
    };
    // Checksums that nobody asked for come as trailers, which many stores other than AWS refuse. What is sent is covered by
    // the signature all the same. Stalled downloads are our reader's business, which goes on where they broke off.
    builder
        .http_client(http)
        .force_path_style(config.path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALLED)
                .upload_enabled(true)
                .download_enabled(false)
                .build(),
        )
}

/// TLS by rustls on ring, as in the rest of the house, with the machine's own certificates.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
