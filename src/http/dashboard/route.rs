//! Which page a path names. Pure.

use crate::auth::Scope;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/`.
    Home,
    /// A file that pages name.
    Asset,
    SignIn,
    SignOut,
    List,
    Experiment,
    /// The report alone.
    Report,
    /// The same as a table.
    ReportText,
    Entries,
    Entry,
    Compare,
    Tail,
    Operation,
    /// What the page of operation is made of, as JSON.
    Figures,
    New,
    Create,
    Edit,
    Save,
    Keys,
    MakeKey,
    RevokeKey,
}

/// A path that names a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The page.
    pub route: Route,
    /// The experiment's name in the path, as it stands there.
    pub slug: Option<String>,
    /// What else is in the path: an id, or a name.
    pub item: String,
}

impl Place {
    /// What a path names for GET and HEAD, or for POST.
    pub fn of(path: &str, is_post: bool) -> Option<Self> {
        let place = |route, slug: Option<&str>, item: &str| {
            let (slug, item) = (slug.map(str::to_owned), item.to_owned());
            Some(Self { route, slug, item })
        };
        if path == "/" && !is_post {
            return place(Route::Home, None, "");
        }
        let parts: Vec<&str> = path.strip_prefix("/ui/")?.split('/').collect();
        match (is_post, parts.as_slice()) {
            (true, ["sign-in"]) => place(Route::SignIn, None, ""),
            (true, ["sign-out"]) => place(Route::SignOut, None, ""),
            (true, ["new-experiment"]) => place(Route::Create, None, ""),
            (true, ["experiment", slug, "edit"]) => place(Route::Save, Some(slug), ""),
            (true, ["keys"]) => place(Route::MakeKey, None, ""),
            (true, ["keys", id, "revoke"]) => place(Route::RevokeKey, None, id),
            (true, _) => None,
            (_, ["assets", name]) => place(Route::Asset, None, name),
            // Whoever has signed in elsewhere and reloads the form.
            (_, ["sign-in"]) => place(Route::Home, None, ""),
            (_, ["experiments"]) => place(Route::List, None, ""),
            (_, ["new-experiment"]) => place(Route::New, None, ""),
            (_, ["operation"]) => place(Route::Operation, None, ""),
            (_, ["operation", "figures"]) => place(Route::Figures, None, ""),
            (_, ["keys"]) => place(Route::Keys, None, ""),
            (_, ["experiment", slug]) => place(Route::Experiment, Some(slug), ""),
            (_, ["experiment", slug, "edit"]) => place(Route::Edit, Some(slug), ""),
            (_, ["experiment", slug, "report"]) => place(Route::Report, Some(slug), ""),
            (_, ["experiment", slug, "report.txt"]) => place(Route::ReportText, Some(slug), ""),
            (_, ["experiment", slug, "entries"]) => place(Route::Entries, Some(slug), ""),
            (_, ["experiment", slug, "entry", id]) => place(Route::Entry, Some(slug), id),
            (_, ["experiment", slug, "compare"]) => place(Route::Compare, Some(slug), ""),
            (_, ["experiment", slug, "tail"]) => place(Route::Tail, Some(slug), ""),
            _ => None,
        }
    }
}

impl Route {
    /// The scope that it needs.
    pub fn scope(self) -> Scope {
        match self {
            Self::New
            | Self::Create
            | Self::Edit
            | Self::Save
            | Self::Keys
            | Self::MakeKey
            | Self::RevokeKey => Scope::Admin,
            _ => Scope::Read,
        }
    }

    /// Whether it concerns the keys themselves.
    pub fn manages_keys(self) -> bool {
        matches!(self, Self::Keys | Self::MakeKey | Self::RevokeKey)
    }

    /// Whether a script asks, which has no use for a page.
    pub fn is_for_script(self) -> bool {
        matches!(self, Self::Tail | Self::Figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_pages() {
        let route = |path, is_post| Place::of(path, is_post).map(|place| place.route);
        for (path, get, post) in [
            ("/", Some(Route::Home), None),
            ("/ui/", None, None),
            ("/ui/sign-in", Some(Route::Home), Some(Route::SignIn)),
            ("/ui/keys", Some(Route::Keys), Some(Route::MakeKey)),
            ("/ui/keys/a/revoke", None, Some(Route::RevokeKey)),
            (
                "/ui/experiment/a/edit",
                Some(Route::Edit),
                Some(Route::Save),
            ),
            ("/ui/experiment/a/entry/b", Some(Route::Entry), None),
            ("/ui/experiment/a/entry/b/", None, None),
            ("/ui/experiment/a/none", None, None),
        ] {
            assert_eq!(route(path, false), get, "GET {path}");
            assert_eq!(route(path, true), post, "POST {path}");
        }
        let place = Place::of("/ui/experiment/a/entry/b", false).unwrap();
        assert_eq!((place.slug.as_deref(), &*place.item), (Some("a"), "b"));
    }
}
