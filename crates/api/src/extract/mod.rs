//! What handlers take from a request, parsed once.

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod form;
pub(crate) mod json;
pub(crate) mod params;

pub(crate) use caller::Caller;
pub(crate) use json::JsonBody;
pub(crate) use params::{JobPath, Params};
