//! Identifiers: parsed once, then passed as types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where random identifiers and jitter come from. Production uses the system's randomness, tests a seeded one.
pub trait IdSource: Send + Sync {
    /// 128 bits, unique and sortable by time of creation (a ULID), as 26 Crockford base-32 characters.
    fn ulid(&self) -> String;

    /// A number drawn evenly from `[0, 1)`.
    fn fraction(&self) -> f64;

    /// 256 bits that nobody can guess, for credentials.
    fn secret(&self) -> [u8; 32];
}

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

fn is_ulid(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A fresh identifier.
            pub fn generate(ids: &dyn IdSource) -> Self {
                Self(format!(concat!($prefix, "{}"), ids.ulid()))
            }

            /// The identifier written as text.
            pub fn parse(text: &str) -> Result<Self, ParseIdError> {
                match text.strip_prefix($prefix) {
                    Some(ulid) if is_ulid(ulid) => Ok(Self(text.to_owned())),
                    _ => Err(ParseIdError { text: text.chars().take(64).collect(), expected: $expected }),
                }
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The 26 characters behind the prefix.
            pub fn ulid(&self) -> &str {
                &self.0[$prefix.len()..]
            }

            /// The identifier with these 26 characters behind the prefix.
            pub fn from_ulid(ulid: &str) -> Result<Self, ParseIdError> {
                Self::parse(&format!(concat!($prefix, "{}"), ulid))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

prefixed_id!(
    /// What a client holds: its ticket for a job. Many submissions may point at one job.
    SubmissionId,
    "job_",
    "a job id (job_ and 26 characters)"
);
prefixed_id!(
    /// The work itself; clients never see it.
    JobId,
    "work_",
    "a work id (work_ and 26 characters)"
);
prefixed_id!(
    /// One worker process (or one embedded worker) for the time it lives.
    WorkerId,
    "worker_",
    "a worker id (worker_ and 26 characters)"
);

prefixed_id!(
    /// One job store, made with it: what tells its audio and results from those of another.
    StoreId,
    "",
    "a store id (26 characters)"
);

prefixed_id!(
    /// The public half of an API key: what lists show and revocations name.
    KeyId,
    "key_",
    "a key id (key_ and 26 characters)"
);

/// Who owns a submission. Embedded mode without keys has one tenant, [`TenantId::default`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(String);

impl TenantId {
    /// Letters, digits, `-`, `_` and `.`; 1 to 64 of them.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError { text: text.chars().take(64).collect(), expected: "a tenant name" })
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TenantId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0
    }
}

/// The number of a lease on one job: only rises, and a finish that presents an old one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// From the number the store keeps.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Drawn by the worker for each claim, so that a claim can be repeated after a timeout, and so that two claims
/// never write results under one name even if the store forgot one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimNonce(String);

impl ClaimNonce {
    /// A fresh nonce.
    pub fn generate(ids: &dyn IdSource) -> Self {
        Self(ids.ulid())
    }

    /// The nonce that a store kept as text.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_of_the_right_kind_parse() {
        let id = "job_01JD0000000000000000000000";
        assert_eq!(SubmissionId::parse(id).map(|id| id.to_string()), Ok(id.to_owned()));
        for bad in [
            "",
            "job_",
            "01JD0000000000000000000000",
            "work_01JD0000000000000000000000",
            "job_../../etc/passwd",
        ] {
            assert!(SubmissionId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_are_short_plain_names() {
        assert!(TenantId::parse("acme-1.eu").is_ok());
        assert!(TenantId::parse("").is_err());
        assert!(TenantId::parse("a b").is_err());
        assert!(TenantId::parse(&"x".repeat(65)).is_err());
    }
}
