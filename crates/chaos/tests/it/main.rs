//! The checker, the short profile, and single faults one by one.

mod bad_histories;
mod frozen;
mod full;
mod poison;
mod profile;
mod sentinel;
mod support;
mod tail;
