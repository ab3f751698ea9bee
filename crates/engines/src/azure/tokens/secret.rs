//! A token that shows itself to nobody but the request it belongs to.

use std::fmt;

use reqwest::header::{HeaderValue, InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

/// Names a token without giving it away.
pub(super) type Digest = [u8; 32];

/// A short-lived token.
#[derive(Clone)]
pub struct AccessToken {
    text: SecretString,
    digest: Digest,
}

impl AccessToken {
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The value of an `Authorization` header, marked as sensitive.
    pub(crate) fn bearer(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.text.expose_secret()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl From<SecretString> for AccessToken {
    fn from(text: SecretString) -> Self {
        let digest = Sha256::digest(text.expose_secret().as_bytes()).into();
        Self { text, digest }
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for AccessToken {}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken([hidden])")
    }
}

/// How the store keeps a token: as its text.
pub(super) mod exposed {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    use super::AccessToken;

    pub(in super::super) fn serialize<S: Serializer>(
        token: &AccessToken,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.text.expose_secret())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<AccessToken, D::Error> {
        String::deserialize(deserializer).map(|text| SecretString::from(text).into())
    }
}
