//! The HTTP front end: bytes in, bytes out. Knows nothing of files.

mod body;
pub mod error;
pub mod framing;
mod handlers;
mod idempotency;
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

pub use server::{AppState, Limits, serve};
