//! Where traces go.

use serde::{Deserialize, Serialize};

/// Which requests and jobs are traced, and where the traces go.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// The collector that takes traces by OTLP over HTTP; empty for none.
    pub otlp_endpoint: OtlpEndpoint,
    /// The part of traces begun here that is recorded, from 0 to 1.
    pub sample_ratio: f64,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { otlp_endpoint: OtlpEndpoint::default(), sample_ratio: 1.0 }
    }
}

/// The base address of an OpenTelemetry collector, `http://host:4318`; or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct OtlpEndpoint(Option<String>);

/// What an address that cannot be one is met with. It is not repeated: there may be a password in it.
#[derive(Debug, thiserror::Error)]
#[error(
    "tracing.otlp_endpoint is not the base address of a collector; write it as http://host:4318 or https://host/path, \
     without user, query and `/v1/traces`, which is added"
)]
pub struct OtlpEndpointError;

/// Where collectors take traces, below their base address (OTLP specification, "OTLP/HTTP request").
const TRACES: &str = "/v1/traces";

impl OtlpEndpoint {
    /// The whole URL of what takes traces, where there is a collector.
    pub fn traces(&self) -> Option<String> {
        self.0.as_ref().map(|base| format!("{base}{TRACES}"))
    }
}

impl TryFrom<String> for OtlpEndpoint {
    type Error = OtlpEndpointError;

    fn try_from(text: String) -> Result<Self, OtlpEndpointError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let base = text.trim_end_matches('/');
        let uri: http::Uri = base.parse().map_err(|_| OtlpEndpointError)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let bare = uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
        if !is_web || !bare || uri.query().is_some() || base.contains('#') || uri.path().ends_with(TRACES) {
            return Err(OtlpEndpointError);
        }
        Ok(Self(Some(base.to_owned())))
    }
}

impl From<OtlpEndpoint> for String {
    fn from(endpoint: OtlpEndpoint) -> Self {
        endpoint.0.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_base_address_of_a_collector() {
        let traces = |text: &str| OtlpEndpoint::try_from(text.to_owned()).unwrap().traces();
        assert_eq!(traces(""), None);
        assert_eq!(traces("http://host:4318").unwrap(), "http://host:4318/v1/traces");
        assert_eq!(traces("http://[::1]:4318/").unwrap(), "http://[::1]:4318/v1/traces");
        assert_eq!(traces("https://host/otlp").unwrap(), "https://host/otlp/v1/traces");
        for bad in [
            "host:4318",
            "collector",
            "grpc://host:4317",
            "http://",
            "http://:4318",
            "http://user:secret@host:4318",
            "http://host:4318?key=secret",
            "http://host:4318/#x",
            "http://host:4318/v1/traces",
        ] {
            let refused = OtlpEndpoint::try_from(bad.to_owned()).map(|_| bad).unwrap_err().to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
