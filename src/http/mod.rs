//! The HTTP front end: bytes in, bytes out. Knows nothing of files.

mod accept;
mod body;
mod caller;
mod coding;
mod dashboard;
pub mod error;
pub mod framing;
mod handlers;
mod idempotency;
pub mod json;
mod life;
mod limits;
mod lines;
pub mod metrics;
mod object;
mod peers;
mod pieces;
pub mod query;
mod range;
mod refusal;
mod reply;
pub mod router;
mod server;
mod service;
pub mod tls;
mod unparsed;
mod writes;

pub use handlers::openapi::DOCUMENT;
pub use handlers::report::DAMAGED_PLACES;
pub use limits::Limits;
pub use server::{AppState, serve, serve_tls};
