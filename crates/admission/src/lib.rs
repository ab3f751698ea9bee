//! Admission control: whatever is scarce at a node (connections, uploads, their bytes, watchers, decoding, scratch disk) is
//! handed out as permits of a [`Pool`], and shared between the tenants or addresses that ask for them.
//!
//! One rule holds for all of them. A tenant that is alone may hold the limit less a reserve, so that another one always
//! finds something. While several wait, none of them gets beyond an equal part of the limit; what is held already stays.
//! A permit is given back by dropping it.

mod holder;
mod pool;
mod share;
mod sizing;
mod state;

pub use holder::Holder;
pub use pool::{Headroom, Permit, Pool, PoolConfig, PoolGauge, PoolUse, Refused};
pub use share::Reserve;
pub use sizing::Sizing;
