//! Addresses of the dashboard's pages.

use std::fmt::Write;

use crate::model::{LogId, Slug};
use crate::percent::encoded;

/// The list of experiments.
pub const EXPERIMENTS: &str = "/ui/experiments";
/// How the server is.
pub const OPERATION: &str = "/ui/operation";
/// The same, as JSON.
pub const FIGURES: &str = "/ui/operation/figures";
/// The keys.
pub const KEYS: &str = "/ui/keys";
/// Makes an experiment.
pub const NEW_EXPERIMENT: &str = "/ui/new-experiment";
/// Signs in.
pub const SIGN_IN: &str = "/ui/sign-in";
/// Signs out.
pub const SIGN_OUT: &str = "/ui/sign-out";

/// One experiment.
pub fn experiment(slug: &Slug) -> String {
    format!("/ui/experiment/{slug}")
}

/// A page of an experiment.
pub fn of_experiment(slug: &Slug, page: &str) -> String {
    format!("/ui/experiment/{slug}/{page}")
}

/// One entry.
pub fn entry(slug: &Slug, id: LogId) -> String {
    format!("/ui/experiment/{slug}/entry/{id}")
}

/// An address with the parameters that have a value.
pub fn with(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut link = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters {
        if value.is_empty() {
            continue;
        }
        let _infallible = write!(link, "{mark}{name}={}", encoded(value));
        mark = '&';
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_empty_ones_left_out() {
        let link = with("/a", &[("q", ""), ("variant", "a b&\u{e9}"), ("n", "1")]);
        assert_eq!(link, "/a?variant=a%20b%26%C3%A9&n=1");
        assert_eq!(with("/a", &[]), "/a");
    }
}
