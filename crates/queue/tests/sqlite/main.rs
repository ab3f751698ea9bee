//! The SQLite store under test.

mod conformance;
mod kill;
mod migration;
mod store;
mod support;
