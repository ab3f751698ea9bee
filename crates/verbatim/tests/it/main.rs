//! The binary as users meet it: over HTTP and on the command line, in good times and bad.

mod bad_inputs;
mod command_line;
mod durability;
mod http;
mod intake;
mod keys;
mod openai_sdk;
#[path = "../support/mod.rs"]
mod support;
