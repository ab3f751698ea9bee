//! Where the bucket is and how to get in.

use secrecy::SecretString;
use verbatim_core::{ErrorKind, PortError};

/// The region that is asked for when none is named; endpoints other than AWS ignore it or expect this one.
pub const DEFAULT_REGION: &str = "us-east-1";

/// Which bucket to use, at which endpoint.
#[derive(Debug, Clone, Default)]
pub struct S3Config {
    /// The bucket. It must exist.
    pub bucket: String,
    /// Where an S3-compatible store answers, as `http://host:port` or `https://host`; AWS itself when absent.
    pub endpoint: Option<String>,
    /// The bucket's region; [`DEFAULT_REGION`] when absent. Without `credentials`, `AWS_REGION` comes before that default.
    pub region: Option<String>,
    /// Whether the bucket goes into the path (`host/bucket/key`) and not into the host name. Most stores other than AWS
    /// need it.
    pub path_style: bool,
    /// What comes before every key, so that several services can share a bucket. May be empty; a `/` is put after it.
    pub prefix: String,
    /// Access key and secret. Without them they are looked for where AWS's tools look: the environment, the profile, a web
    /// identity, the container, the machine's metadata.
    pub credentials: Option<(String, SecretString)>,
}

impl S3Config {
    /// The prefix as it stands before keys.
    ///
    /// # Errors
    /// `Invalid` when it, the bucket or the endpoint cannot be one.
    pub(super) fn checked_prefix(&self) -> Result<String, PortError> {
        if self.bucket.is_empty() {
            return Err(invalid("no bucket is named: set the name of a bucket that exists".to_owned()));
        }
        if let Some(endpoint) = &self.endpoint
            && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(invalid(format!(
                "`{endpoint}` is not an S3 endpoint: write it as http://host:port or https://host"
            )));
        }
        let prefix = self.prefix.trim_end_matches('/');
        let part_ok = |part: &str| {
            let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(safe)
        };
        match prefix {
            "" => Ok(String::new()),
            _ if prefix.len() <= 512 && prefix.split('/').all(part_ok) => Ok(format!("{prefix}/")),
            _ => Err(invalid(format!(
                "`{}` cannot come before the keys of a bucket: use letters, digits, `-`, `_`, `.`, and `/` between parts",
                self.prefix
            ))),
        }
    }

    /// How messages call the store.
    pub(super) fn place(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS S3")
    }
}

fn invalid(message: String) -> PortError {
    PortError::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prefix: &str) -> S3Config {
        S3Config { bucket: "b".to_owned(), prefix: prefix.to_owned(), ..S3Config::default() }
    }

    #[test]
    fn a_prefix_ends_with_one_slash_or_is_empty() {
        for (given, wanted) in [("", ""), ("/", ""), ("a", "a/"), ("a/b/", "a/b/"), ("a.b_c-1", "a.b_c-1/")] {
            assert_eq!(config(given).checked_prefix().unwrap(), wanted);
        }
        for bad in ["/a", "a//b", "a b", "../a", "a/./b", "ä"] {
            let error = config(bad).checked_prefix().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(bad));
        }
    }

    #[test]
    fn an_endpoint_names_its_scheme_and_secrets_are_not_shown() {
        let mut config = config("");
        config.endpoint = Some("minio:9000".to_owned());
        assert!(config.checked_prefix().unwrap_err().to_string().contains("http://host:port"));
        config.credentials = Some(("AK".to_owned(), SecretString::from("very-secret")));
        assert!(!format!("{config:?}").contains("very-secret"));
    }
}
