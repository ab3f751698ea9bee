//! Fetching models, from a hub and from packages that stand on this machine.

mod hub;
mod packages;
mod support;
