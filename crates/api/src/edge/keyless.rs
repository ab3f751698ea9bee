//! Who may ask a service that wants no keys: programs of this machine, and pages that it serves itself. A web page of
//! somebody else must get nothing, although the browser that runs it is on this machine: it may neither send requests
//! (`Origin`, `Sec-Fetch-Site`) nor read answers after its own name was pointed here (DNS rebinding, seen by `Host`).
//!
//! Programs send neither `Origin` nor `Sec-Fetch-Site`; browsers always send what tells a foreign page.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::state::ApiState;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names and origins that a service without keys answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyless {
    /// Where the service listens.
    pub listen: SocketAddr,
    /// Further names, in lower case and without a port, that clients may use for it.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call it.
    pub allowed_origins: Vec<HeaderValue>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The error's code.
    pub code: &'static str,
    /// What to do about it.
    pub detail: String,
}

impl Keyless {
    /// Whether a request with this head may pass.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Stranger> {
        let host = host(uri, headers).filter(|host| self.answers_to(host));
        let Some(host) = host else {
            return Err(Stranger { code: "host_not_allowed", detail: HOST_DETAIL.to_owned() });
        };
        let origins: Vec<_> = headers.get_all(header::ORIGIN).iter().collect();
        if !origins.is_empty() && origins.iter().all(|origin| self.allowed_origins.contains(origin)) {
            return Ok(());
        }
        let foreign_site = headers
            .get_all(FETCH_SITE)
            .iter()
            .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
        let foreign_origin = origins.iter().any(|origin| !is_origin_of(origin, &host));
        if foreign_site || foreign_origin {
            return Err(Stranger { code: "origin_not_allowed", detail: ORIGIN_DETAIL.to_owned() });
        }
        Ok(())
    }

    fn answers_to(&self, host: &Authority) -> bool {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let own = match literal.map(|address| address.to_canonical()) {
            // Nobody can point a literal address elsewhere, so that any of this machine's own will do.
            Ok(address) => {
                let listen = self.listen.ip().to_canonical();
                address.is_loopback() || address == listen || listen.is_unspecified()
            }
            Err(_) => name == "localhost",
        };
        own || self.allowed_hosts.contains(&name)
    }
}

const HOST_DETAIL: &str = "this service runs without API keys and answers only to the names of its own machine; to reach it by \
    another name, add that name to VERBATIM__SERVER__ALLOWED_HOSTS";
const ORIGIN_DETAIL: &str = "this service runs without API keys and answers no web page of another origin; to allow one, add its \
    origin to VERBATIM__SERVER__CORS_ALLOWED_ORIGINS";

/// The host that the request is for; `None` without one, or with several.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let mut named = headers.get_all(header::HOST).iter();
    let (first, another) = (named.next(), named.next());
    if another.is_some() {
        return None;
    }
    let in_header = match first {
        Some(value) => Some(value.to_str().ok()?.parse::<Authority>().ok()?),
        None => None,
    };
    // A request to a proxy names its host twice; both must be the same.
    let named = match (uri.authority().cloned(), in_header) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    };
    named.filter(is_plain)
}

/// Whether an authority is a host with a port or without, and nothing else: others may read `a@b` or a port that is none in
/// another way, and take the request to be for somebody else.
fn is_plain(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    let port = rest.map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    rest.is_some_and(str::is_empty) || port.is_some_and(is_port)
}

/// Whether a page of this origin was served by `host` itself. The scheme is left aside: whatever ends TLS before this
/// service changes it.
fn is_origin_of(origin: &HeaderValue, host: &Authority) -> bool {
    let parsed = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some((scheme, authority)) = parsed.as_ref().and_then(|uri| uri.scheme_str().zip(uri.authority()))
    else {
        return false;
    };
    if !is_plain(authority) {
        return false;
    }
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(host)
}

/// Lets pass what may pass, where callers need no keys. Whoever only asks for health gets it whatever name it uses: the
/// answer tells nothing.
pub(crate) async fn only_own_pages(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if let Some(keyless) = &state.edge.keyless
        && !matches!(route, Some("/healthz" | "/readyz"))
        && let Err(Stranger { code, detail }) = keyless.check(request.uri(), request.headers())
    {
        return Err(ApiError::new(StatusCode::FORBIDDEN, code, detail));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyless(listen: &str) -> Keyless {
        Keyless {
            listen: listen.parse().unwrap(),
            allowed_hosts: vec!["studio.lan".to_owned()],
            allowed_origins: vec![HeaderValue::from_static("app://verbatim")],
        }
    }

    fn asked(listen: &str, headers: &[(&'static str, &'static str)]) -> &'static str {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let checked = keyless(listen).check(&Uri::from_static("/v1/jobs"), &all);
        checked.map_or_else(|stranger| stranger.code, |()| "passes")
    }

    #[test]
    fn programs_of_this_machine_pass_by_any_of_its_names() {
        for host in [
            "localhost:8080",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "studio.lan:8080",
        ] {
            assert_eq!(asked("127.0.0.1:8080", &[("host", host)]), "passes", "{host}");
        }
        assert_eq!(asked("192.168.1.5:8080", &[("host", "192.168.1.5:8080")]), "passes");
        assert_eq!(asked("0.0.0.0:8080", &[("host", "192.168.1.5:8080")]), "passes");
        assert_eq!(asked("[::]:8080", &[("host", "[2001:db8::1]:8080")]), "passes");
    }

    #[test]
    fn a_name_that_was_pointed_here_is_refused() {
        for host in [
            "rebind.evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "192.168.1.6",
            "",
            "a b",
            "[::ffff:8.8.8.8]",
            "evil@localhost",
            "localhost@localhost",
            "localhost:99999",
            "localhost:",
            "127.0.0.1:80a",
            "localhost:+80",
        ] {
            assert_eq!(asked("127.0.0.1:8080", &[("host", host)]), "host_not_allowed", "{host}");
        }
        assert_eq!(asked("127.0.0.1:8080", &[]), "host_not_allowed");
        assert_eq!(
            asked("127.0.0.1:8080", &[("host", "localhost"), ("host", "evil.example")]),
            "host_not_allowed"
        );
        assert_eq!(asked("0.0.0.0:8080", &[("host", "evil.example")]), "host_not_allowed");
    }

    #[test]
    fn pages_of_the_service_itself_and_allowed_ones_pass_and_no_others() {
        let with = |headers: &[(&'static str, &'static str)]| {
            let mut all = vec![("host", "localhost:8080")];
            all.extend_from_slice(headers);
            asked("127.0.0.1:8080", &all)
        };
        assert_eq!(with(&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")]), "passes");
        assert_eq!(with(&[("sec-fetch-site", "none")]), "passes");
        assert_eq!(with(&[("origin", "app://verbatim"), ("sec-fetch-site", "cross-site")]), "passes");
        for origin in [
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "https://evil.example",
            "null",
            "app://other",
            "file://",
            "http://user@localhost:8080",
            "http://localhost:99999",
        ] {
            assert_eq!(with(&[("origin", origin)]), "origin_not_allowed", "{origin}");
        }
        assert_eq!(
            with(&[("origin", "app://verbatim"), ("origin", "https://evil.example")]),
            "origin_not_allowed"
        );
        for site in ["cross-site", "same-site", "something-new"] {
            assert_eq!(with(&[("sec-fetch-site", site)]), "origin_not_allowed", "{site}");
        }
    }

    #[test]
    fn the_scheme_s_own_port_need_not_be_written() {
        let with = |host, origin| asked("127.0.0.1:80", &[("host", host), ("origin", origin)]);
        assert_eq!(with("localhost", "http://localhost"), "passes");
        assert_eq!(with("localhost:80", "http://localhost"), "passes");
        assert_eq!(with("localhost", "https://localhost"), "passes");
        assert_eq!(with("localhost", "http://localhost:8080"), "origin_not_allowed");
    }
}
