//! A page that can't be shown.

use maud::{Markup, html};

use crate::dashboard::link;

/// Why not, in the API's words.
pub fn failure(status: u16, code: &str, message: &str) -> Markup {
    html! {
        div.card.narrow {
            h1 { (headline(status)) }
            p { bdi { (message) } }
            p.muted { (status) " " code { (code) } }
            p { a href=(link::EXPERIMENTS) { "To the experiments" } }
        }
    }
}

fn headline(status: u16) -> &'static str {
    match status {
        403 => "Not allowed",
        404 => "Not here",
        405 => "Not so",
        429 | 503 => "Later, please",
        400..500 => "That can't be",
        _ => "Something failed",
    }
}
