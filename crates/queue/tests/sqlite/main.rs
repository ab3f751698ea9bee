//! The SQLite store under test.

mod conformance;
mod kill;
mod store;
mod support;
