//! The Redis job store against the suite of every store, and what is its own. With `VERBATIM_TEST_REDIS_URL` the tests
//! share that Redis, each under a prefix of its own; without, each starts one and is the user there that the
//! stack's nodes are.

mod access;
mod adoption;
mod audit;
mod away;
mod checkpoints;
mod conformance;
mod corrupt;
mod directory;
mod failover;
mod identity;
mod line;
mod lost_answers;
mod newer;
mod news;
mod offers;
mod outages;
mod providers;
mod resharding;
mod server;
mod silence;
mod store;
mod support;
mod unreadable;
mod upgrade;
