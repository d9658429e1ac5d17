//! Signing in with a key.

use maud::{Markup, html};

use crate::dashboard::layout::wrong;
use crate::dashboard::link;

/// The form. Whoever signs in goes on to the page `to`.
pub fn sign_in(to: &str, message: Option<&str>) -> Markup {
    html! {
        div.card.narrow {
            h1 { "Sign in" }
            p {
                "With an API key that has the scope " code { "read" } " or " code { "admin" }
                ". The first admin key is in the file " code { "admin.key" } " of the server's data."
            }
            (wrong(message))
            form method="post" action=(link::SIGN_IN) {
                input type="hidden" name="to" value=(to);
                // Without it password managers, and browsers, complain.
                input.hidden type="text" name="username" value="trialog" autocomplete="username"
                    tabindex="-1" aria-hidden="true" readonly;
                label for="key" { "API key" }
                input #key name="key" type="password" autocomplete="current-password" required
                    spellcheck="false" maxlength="512" autofocus;
                button type="submit" { "Sign in" }
            }
        }
    }
}

/// What is shown for a moment to whoever follows a link on another site.
pub fn again() -> Markup {
    html! {
        div.card.narrow {
            h1 { "One moment" }
            p { "Reload this page if it doesn't come by itself." }
        }
    }
}
