//! The SQLite store under test.

mod checkpoints;
mod conformance;
mod directory;
mod kill;
mod migration;
mod newer;
mod private;
mod providers;
mod store;
mod support;
mod unreadable;
