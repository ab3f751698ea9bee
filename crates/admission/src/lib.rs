//! Admission control: what is scarce at a node (connections, uploads and their bytes, watchers, decoding, scratch disk) is
//! handed out as permits of a [`Pool`], shared between the tenants or addresses that ask for them (ADR 78).
//!
//! One rule of shares holds for all pools. A holder that is alone may have all permits less a [`Reserve`], so that the next
//! one finds some. While several contend, none gets beyond an equal share; permits that are held stay. Dropping a permit
//! gives it back.

mod holder;
mod pool;
mod share;
mod sizing;
mod state;

pub use holder::Holder;
pub use pool::{Permit, Pool, PoolConfig, PoolGauge, PoolUse, Refused};
pub use share::{Holdings, Reserve};
pub use sizing::{Headroom, Sizing};
