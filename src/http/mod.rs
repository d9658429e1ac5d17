//! The HTTP front end: bytes in, bytes out. Knows nothing of files.

mod body;
pub mod error;
mod framing;
mod handlers;
pub mod json;
mod life;
mod object;
mod query;
mod refusal;
mod reply;
mod router;
mod server;
mod service;

pub use server::{AppState, Limits, serve};
