//! The door: whose request it is by address, how often one address may ask, and what browsers are told.

mod address;
mod coding;
mod headers;
mod keyless;
mod rate;

use axum::http::HeaderValue;
use ipnet::IpNet;

pub(crate) use address::{ClientAddress, client_address, holder_by_address};
pub(crate) use coding::only_chunked;
pub(crate) use headers::{cross_origin, pages_policy, security};
pub(crate) use keyless::only_own_pages;
pub use keyless::{Keyless, Stranger};
pub(crate) use rate::AddressRate;

/// Who stands between clients and this node, and what is theirs to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    /// Networks of the proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins whose pages may call the API from a browser.
    pub allowed_origins: Vec<HeaderValue>,
    /// Who may ask where callers need no keys; `None` where they do.
    pub keyless: Option<Keyless>,
    /// How often one address may ask; `None` for no limit.
    pub per_address: Option<AddressLimit>,
}

/// How often one address may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressLimit {
    /// Requests in a minute, in the long run; at least 1.
    pub per_minute: u32,
    /// Requests that may have been saved up; at least 1.
    pub burst: u32,
}
