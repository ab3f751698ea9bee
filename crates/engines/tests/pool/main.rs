//! The provider pool, in a world of its own, on a clock that tests move.

mod calls;
mod choosing;
mod cluster;
mod spending;
mod support;
