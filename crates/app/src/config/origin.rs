//! The origin of a web page (RFC 6454), as a browser sends it.

use http::HeaderValue;
use serde::{Deserialize, Serialize};

/// Scheme, host and, where it is not the scheme's own, port: `https://app.example`. Any scheme will do: programs made of
/// web pages have their own (`app://…`, `chrome-extension://…`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(HeaderValue);

/// What an origin that cannot be one is met with.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not an origin; write it as https://app.example, http://127.0.0.1:3000 or app://name, without path or wildcard"
)]
pub struct OriginError(String);

impl Origin {
    /// As it stands in the header `Origin`.
    pub fn to_header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;

    fn try_from(text: String) -> Result<Self, OriginError> {
        let refused = || OriginError(text.clone());
        let uri: http::Uri = text.parse().map_err(|_| refused())?;
        let (scheme, authority) =
            uri.scheme_str().zip(uri.authority()).filter(|_| uri.path() == "/").ok_or_else(refused)?;
        let bare = format!("{scheme}://{authority}").to_lowercase();
        if authority.as_str().contains(['@', '*']) || text.trim_end_matches('/') != bare {
            return Err(refused());
        }
        HeaderValue::try_from(bare).map(Self).map_err(|_| refused())
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0.to_str().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_browsers_send_is_an_origin() {
        for good in [
            "https://app.example",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "app://verbatim",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "tauri://localhost",
        ] {
            assert_eq!(String::from(Origin::try_from(good.to_owned()).unwrap()), good);
        }
        for bad in [
            "*",
            "app.example",
            "https://*.example",
            "https://app.example/path",
            "app://",
            "app://a/b",
            "https://u@a",
            "null",
        ] {
            assert!(Origin::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
