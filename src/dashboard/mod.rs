//! The dashboard's pages and plots: figures in, HTML and SVG out. Pure: no requests, no files.
//!
//! `http/dashboard` asks the store for what a page shows, by the same calls as the API's handlers, and
//! gives it to the functions in [`pages`]. Markup is made by `maud`, which escapes all text; what comes
//! from entries or clients stands in `bdi`, so that it turns no line around. No page has a script or a
//! style of its own: those are in [`assets`], as the content security policy wants it.

pub mod assets;
pub mod json;
pub mod layout;
pub mod link;
pub mod pages;
pub mod plots;
mod words;
