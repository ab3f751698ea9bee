//! What a cluster shares: the job store in Redis and the bucket for audio and results.

use serde::{Deserialize, Serialize};

use super::secret::{Secret, SecretUrl};

/// The job store of a cluster.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` and one server, `redis+sentinel://` and its sentinels, or `redis+cluster://` and some of
    /// its nodes. Without it the job store is a file in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretUrl>,
    /// What the names of all keys begin with, so that several services can share one Redis.
    pub prefix: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self { url: None, prefix: "verbatim".to_owned() }
    }
}

/// The bucket for audio and results.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// Its name. Without it audio and results lie in the data folder, which a cluster has to share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Base URL of an S3-compatible service; AWS itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket is named in the path of the URL instead of in the host.
    pub path_style: bool,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// Key that opens the bucket; what the AWS tools would use when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<Secret>,
    /// The other half of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
}
