//! The HTTP front end: bytes in, bytes out. Knows nothing of files.

mod accept;
mod body;
pub mod error;
pub mod framing;
mod handlers;
pub mod json;
mod life;
mod lines;
mod object;
pub mod query;
mod refusal;
mod reply;
pub mod router;
mod server;
mod service;

pub use handlers::report::DAMAGED_PLACES;
pub use server::{AppState, Limits, serve};
