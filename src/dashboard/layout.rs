//! What all pages share: the head, who is signed in, and where one may go.

use maud::{DOCTYPE, Markup, html};

use super::assets::{ICON, SCRIPT, STYLE};
use super::link;

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Among the experiments.
    Experiments,
    /// How the server is.
    Operation,
    /// The keys.
    Keys,
    /// Nowhere of these.
    Elsewhere,
}

/// Who looks.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The name of the key.
    pub name: String,
    /// Whether they may make experiments.
    pub is_admin: bool,
    /// Whether they may make keys.
    pub manages_keys: bool,
}

/// What stands around a page.
pub struct Shell<'a> {
    /// The page's title.
    pub title: &'a str,
    /// Where it is.
    pub here: Here,
    /// Who looks, if they signed in.
    pub visitor: Option<&'a Visitor>,
    /// What the store can't do now, in words.
    pub trouble: Option<&'a str>,
}

impl Shell<'_> {
    /// The whole page.
    pub fn page(&self, content: Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · trialog" }
                    link rel="icon" href=(ICON.path()) type="image/svg+xml";
                    link rel="stylesheet" href=(STYLE.path());
                    script src=(SCRIPT.path()) defer {}
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    (self.header())
                    @if let Some(trouble) = self.trouble {
                        p.trouble role="alert" { (trouble) }
                    }
                    main #content tabindex="-1" { (content) }
                }
            }
        }
    }

    fn header(&self) -> Markup {
        html! {
            header.top {
                a.brand href="/" { "trialog" }
                @if let Some(visitor) = self.visitor {
                    nav aria-label="Pages" {
                        (self.place(Here::Experiments, link::EXPERIMENTS, "Experiments"))
                        (self.place(Here::Operation, link::OPERATION, "Operation"))
                        @if visitor.manages_keys {
                            (self.place(Here::Keys, link::KEYS, "Keys"))
                        }
                    }
                    form.who method="post" action=(link::SIGN_OUT) {
                        span title="The key you signed in with" { bdi { (visitor.name) } }
                        button.quiet type="submit" { "Sign out" }
                    }
                }
            }
        }
    }

    fn place(&self, here: Here, href: &str, name: &str) -> Markup {
        let is_here = (self.here == here).then_some("page");
        html! { a href=(href) aria-current=[is_here] { (name) } }
    }
}

/// A place on the way to a page.
pub fn trail(places: &[(&str, &str)]) -> Markup {
    html! {
        nav.trail aria-label="Where this is" {
            @for (name, href) in places {
                a href=(href) { (name) }
                span aria-hidden="true" { "›" }
            }
        }
    }
}

/// What went wrong with a form.
pub fn wrong(message: Option<&str>) -> Markup {
    html! {
        @if let Some(message) = message {
            p.wrong role="alert" { bdi { (message) } }
        }
    }
}
