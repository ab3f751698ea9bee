//! Stand-ins for the services that Verbatim calls, for tests: they follow the upstream contracts, check what they
//! receive, and misbehave on demand. No shipped binary contains them.
//!
//! A stand-in listens on a free port of this machine and ends when it is dropped. It records each request
//! (`requests()`) and whatever breaks the contract (`violations()`); a test of an engine ends with an assertion that
//! there were none.

mod audio;
mod azure;
mod clock;
mod desk;
mod faults;
mod front;
mod hearing;
mod openai;
mod server;
pub mod tones;

pub use azure::{AzureSettings, AzureStandIn, BatchRules, IssuedToken};
pub use clock::StandInClock;
pub use desk::{Auth, Latency, Limits, SeenRequest};
pub use faults::{Fault, Times};
pub use front::Front;
pub use hearing::{HeardWord, Hearing, Phrase};
pub use openai::{OpenAiSettings, OpenAiStandIn, Verbose};
