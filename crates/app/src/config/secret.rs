//! Values that are read but never printed: what shows of them in `verbatim config check` and in debug output.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// What stands where a secret was.
const HIDDEN: &str = "[hidden]";

/// A secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for whoever has to present it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

// Only configurations are compared, never a secret that somebody presents.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// A URL that may hold a password, which is all of it that is never printed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(Secret);

impl SecretUrl {
    /// The whole URL, for whoever connects to it.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The URL without its user, password and query, which can hold a password as well.
    pub fn redacted(&self) -> String {
        let url = self.expose();
        let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?[hidden]"));
        // A password may contain anything that is not the last `@`.
        match rest.rsplit_once('@') {
            Some((_, place)) => format!("{scheme}://{HIDDEN}@{place}{query}"),
            None => format!("{scheme}://{rest}{query}"),
        }
    }
}

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_where_it_leads_and_no_password() {
        let cases = [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://user:se@cret@host:6380/1", "rediss://[hidden]@host:6380/1"),
            ("redis+sentinel://:pw@a:1,b:2/mymaster/0", "redis+sentinel://[hidden]@a:1,b:2/mymaster/0"),
            ("redis+cluster://a:1,b:2?password=pw", "redis+cluster://a:1,b:2?[hidden]"),
            ("pw@host", "[hidden]"),
        ];
        for (url, shown) in cases {
            assert_eq!(SecretUrl::from(url).redacted(), shown);
            assert!(!format!("{:?}", SecretUrl::from(url)).contains("pw"));
        }
    }
}
