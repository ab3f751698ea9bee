//! What browsers are told: which pages may call the API, and to treat answers as nothing but data.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

/// What the pages of `/docs` need; every other answer is data, which needs nothing.
const PAGES: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                     frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
const DATA: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Headers of every answer. They are only set where the answer has none of its own.
const SECURITY: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, DATA),
    // Transcripts are nobody else's business: not of a proxy, not of the next user of a browser.
    (header::CACHE_CONTROL, "no-store"),
];

/// Adds the headers of every answer.
pub(crate) fn security<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    SECURITY.into_iter().fold(router, |router, (name, value)| router.layer(unless_present(name, value)))
}

/// Adds what pages need instead.
pub(crate) fn pages_policy<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .layer(unless_present(header::CONTENT_SECURITY_POLICY, PAGES))
        .layer(unless_present(header::CACHE_CONTROL, "no-cache"))
}

fn unless_present(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Lets pages of these origins call the API (CORS); with none, browsers keep pages of other origins out, as they do by
/// themselves.
pub(crate) fn cross_origin(allowed_origins: &[HeaderValue]) -> CorsLayer {
    let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
    let read: Vec<_> = named(&[
        "location",
        "retry-after",
        "x-request-id",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ]);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed_origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        // Client libraries send headers of their own (`x-stainless-…`): whatever an allowed page asks for.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(read)
        .max_age(std::time::Duration::from_secs(3600))
}
