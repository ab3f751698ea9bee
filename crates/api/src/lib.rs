//! The HTTP API over the ports: the native job API, OpenAI's audio API, and what operators ask. Knows no adapter.

mod audit;
mod auth;
mod caps;
mod connection;
mod disk_guard;
mod dto;
mod edge;
mod error;
mod extract;
mod limits;
mod observe;
mod open;
mod openapi;
mod options;
mod problem;
mod result;
mod router;
mod routes;
mod serve;
mod served;
mod stages;
mod state;
mod story;
mod submit;
mod upload;
mod watch;

pub use disk_guard::DiskParts;
pub use edge::{AddressLimit, Edge, Keyless, Stranger};
pub use router::{openapi, router};
pub use serve::{ServeGauges, ServeOptions, serve};
pub use state::{ApiLimits, ApiParts, ApiState, CostTerms, ProviderParts};
