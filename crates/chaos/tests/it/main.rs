//! The harness itself, and what it shows.

mod bad_histories;
