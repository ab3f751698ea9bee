//! The Azure engine and its token service against the stand-in of Azure's contract.

mod batch;
mod credentials;
mod failures;
mod fast;
mod secrets;
mod short;
mod support;
mod tokens;
