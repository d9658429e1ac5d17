//! Which endpoint a path names, and what it takes. Pure.

use hyper::Method;

use super::error::{ApiError, Code};
use super::refusal::unknown_experiment;
use crate::auth::Scope;
use crate::model::Slug;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Health,
    Ready,
    Experiments,
    Experiment,
    Log,
    Logs,
    Stats,
    Report,
    Entry,
    Tail,
    Segments,
    Segment,
    Keys,
    Key,
    Metrics,
    OpenApi,
    Dashboard,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Health,
    Ready,
    ListExperiments,
    Define,
    Describe,
    Delete,
    Append,
    AppendBatch,
    GetEntry,
    QueryLogs,
    Tail,
    ListSegments,
    GetSegment,
    Stats,
    Report,
    CreateKey,
    ListKeys,
    RevokeKey,
    Metrics,
    OpenApi,
    /// A page of the dashboard.
    Look,
    /// A form of the dashboard.
    Act,
}

/// Each action, with the method and the path that ask for it.
pub const ACTIONS: [(Action, &str, &str); 22] = [
    (Action::Health, "GET", "/health"),
    (Action::Ready, "GET", "/ready"),
    (Action::ListExperiments, "GET", "/experiments"),
    (Action::Define, "PUT", "/experiment/:slug"),
    (Action::Describe, "GET", "/experiment/:slug"),
    (Action::Delete, "DELETE", "/experiment/:slug"),
    (Action::Append, "POST", "/experiment/:slug/log"),
    (Action::AppendBatch, "POST", "/experiment/:slug/logs"),
    (Action::GetEntry, "GET", "/experiment/:slug/log/:logId"),
    (Action::QueryLogs, "GET", "/experiment/:slug/logs"),
    (Action::Tail, "GET", "/experiment/:slug/tail"),
    (Action::ListSegments, "GET", "/experiment/:slug/segments"),
    (Action::GetSegment, "GET", "/experiment/:slug/segments/:n"),
    (Action::Stats, "GET", "/experiment/:slug/stats"),
    (Action::Report, "GET", "/experiment/:slug/report"),
    (Action::CreateKey, "POST", "/keys"),
    (Action::ListKeys, "GET", "/keys"),
    (Action::RevokeKey, "DELETE", "/keys/:id"),
    (Action::Metrics, "GET", "/metrics"),
    (Action::OpenApi, "GET", "/openapi.json"),
    (Action::Look, "GET", "/ui/:page"),
    (Action::Act, "POST", "/ui/:page"),
];

/// A path that names something.
#[derive(Debug)]
pub struct Place<'p> {
    endpoint: Endpoint,
    /// The slug in the path, as it stands there.
    pub slug: Option<&'p str>,
    /// The id in the path, as it stands there.
    pub id: Option<&'p str>,
}

/// The table of paths.
pub struct Router(matchit::Router<Endpoint>);

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl Router {
    /// The paths of the API.
    pub fn new() -> Self {
        let mut router = matchit::Router::new();
        for (path, endpoint) in [
            ("/health", Endpoint::Health),
            ("/ready", Endpoint::Ready),
            ("/experiments", Endpoint::Experiments),
            ("/experiment/{slug}", Endpoint::Experiment),
            // None of these is a slug, and whoever creates one should be told so.
            ("/experiment/", Endpoint::Experiment),
            ("/experiment/{slug}/", Endpoint::Experiment),
            ("/experiment/{slug}/log", Endpoint::Log),
            ("/experiment/{slug}/logs", Endpoint::Logs),
            ("/experiment/{slug}/log/{id}", Endpoint::Entry),
            ("/experiment/{slug}/tail", Endpoint::Tail),
            ("/experiment/{slug}/segments", Endpoint::Segments),
            ("/experiment/{slug}/segments/{id}", Endpoint::Segment),
            ("/experiment/{slug}/stats", Endpoint::Stats),
            ("/experiment/{slug}/report", Endpoint::Report),
            ("/keys", Endpoint::Keys),
            ("/keys/{id}", Endpoint::Key),
            ("/metrics", Endpoint::Metrics),
            ("/openapi.json", Endpoint::OpenApi),
            ("/", Endpoint::Dashboard),
            ("/ui/{*page}", Endpoint::Dashboard),
        ] {
            let inserted = router.insert(path, endpoint);
            debug_assert!(inserted.is_ok(), "the paths above don't conflict");
        }
        Self(router)
    }

    /// What `path` names.
    pub fn find<'p>(&self, path: &'p str) -> Result<Place<'p>, ApiError> {
        let not_found = || ApiError::new(Code::NotFound, "there is nothing at this path");
        let found = self.0.at(path).map_err(|_| not_found())?;
        let endpoint = *found.value;
        let slug = match endpoint {
            Endpoint::Experiment => path.strip_prefix("/experiment/"),
            _ => found.params.get("slug"),
        };
        Ok(Place {
            endpoint,
            slug,
            id: found.params.get("id"),
        })
    }
}

impl Place<'_> {
    /// Whether it is one of the two that need no key.
    pub fn is_open(&self) -> bool {
        matches!(self.endpoint, Endpoint::Health | Endpoint::Ready)
    }

    /// Whether it is a page of the dashboard, whose visitors have a session in place of a key.
    pub fn is_dashboard(&self) -> bool {
        self.endpoint == Endpoint::Dashboard
    }

    /// Whether a key may come as `authorization: Bearer`, too: Prometheus can't send other headers
    /// before its version 3.
    pub fn takes_bearer(&self) -> bool {
        self.endpoint == Endpoint::Metrics
    }

    /// The path, with names in place of what a client may choose.
    pub fn route(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Health => "/health",
            Endpoint::Ready => "/ready",
            Endpoint::Experiments => "/experiments",
            Endpoint::Experiment => "/experiment/{slug}",
            Endpoint::Log => "/experiment/{slug}/log",
            Endpoint::Logs => "/experiment/{slug}/logs",
            Endpoint::Entry => "/experiment/{slug}/log/{id}",
            Endpoint::Tail => "/experiment/{slug}/tail",
            Endpoint::Segments => "/experiment/{slug}/segments",
            Endpoint::Segment => "/experiment/{slug}/segments/{id}",
            Endpoint::Stats => "/experiment/{slug}/stats",
            Endpoint::Report => "/experiment/{slug}/report",
            Endpoint::Keys => "/keys",
            Endpoint::Key => "/keys/{id}",
            Endpoint::Metrics => "/metrics",
            Endpoint::OpenApi => "/openapi.json",
            Endpoint::Dashboard => "/ui/{page}",
        }
    }

    /// What `method` asks for here.
    pub fn action(&self, method: &Method) -> Result<Action, ApiError> {
        let is_get = method == Method::GET || method == Method::HEAD;
        let action = match self.endpoint {
            Endpoint::Health if is_get => Action::Health,
            Endpoint::Ready if is_get => Action::Ready,
            Endpoint::Experiments if is_get => Action::ListExperiments,
            Endpoint::Experiment if is_get => Action::Describe,
            Endpoint::Experiment if method == Method::PUT => Action::Define,
            Endpoint::Experiment if method == Method::DELETE => Action::Delete,
            Endpoint::Log if method == Method::POST => Action::Append,
            Endpoint::Logs if method == Method::POST => Action::AppendBatch,
            Endpoint::Logs if is_get => Action::QueryLogs,
            Endpoint::Entry if is_get => Action::GetEntry,
            Endpoint::Tail if is_get => Action::Tail,
            Endpoint::Segments if is_get => Action::ListSegments,
            Endpoint::Segment if is_get => Action::GetSegment,
            Endpoint::Stats if is_get => Action::Stats,
            Endpoint::Report if is_get => Action::Report,
            Endpoint::Keys if is_get => Action::ListKeys,
            Endpoint::Keys if method == Method::POST => Action::CreateKey,
            Endpoint::Metrics if is_get => Action::Metrics,
            Endpoint::OpenApi if is_get => Action::OpenApi,
            Endpoint::Dashboard if is_get => Action::Look,
            Endpoint::Dashboard if method == Method::POST => Action::Act,
            Endpoint::Key if method == Method::DELETE => Action::RevokeKey,
            _ => return Err(ApiError::method_not_allowed(self.allow())),
        };
        Ok(action)
    }

    /// The slug, checked. What can't be a slug names no experiment; only creation says more.
    pub fn slug(&self, method: &Method) -> Result<Option<Slug>, ApiError> {
        let Some(text) = self.slug else {
            return Ok(None);
        };
        match Slug::parse(text) {
            Ok(slug) => Ok(Some(slug)),
            Err(error) if method == Method::PUT && self.endpoint == Endpoint::Experiment => {
                Err(ApiError::new(Code::BadSlug, error.to_string()))
            }
            Err(_) => Err(unknown_experiment()),
        }
    }

    fn allow(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Health
            | Endpoint::Ready
            | Endpoint::Experiments
            | Endpoint::Entry
            | Endpoint::Tail
            | Endpoint::Segments
            | Endpoint::Segment
            | Endpoint::Stats
            | Endpoint::Report
            | Endpoint::Metrics
            | Endpoint::OpenApi => "GET, HEAD",
            Endpoint::Experiment => "GET, HEAD, PUT, DELETE",
            Endpoint::Log => "POST",
            Endpoint::Logs | Endpoint::Keys | Endpoint::Dashboard => "GET, HEAD, POST",
            Endpoint::Key => "DELETE",
        }
    }
}

impl Action {
    /// The scope that it needs; without one, a key of any scope will do.
    pub fn scope(self) -> Option<Scope> {
        let scope = match self {
            // The first two need no key at all.
            Self::Health | Self::Ready | Self::OpenApi => return None,
            Self::Append | Self::AppendBatch => Scope::Ingest,
            Self::ListExperiments
            | Self::Describe
            | Self::GetEntry
            | Self::QueryLogs
            | Self::Tail
            | Self::ListSegments
            | Self::GetSegment
            | Self::Stats
            | Self::Report
            | Self::Metrics
            | Self::Look
            | Self::Act => Scope::Read,
            Self::Define | Self::Delete => Scope::Admin,
            Self::CreateKey | Self::ListKeys | Self::RevokeKey => Scope::Admin,
        };
        Some(scope)
    }

    /// Whether it concerns the keys themselves.
    pub fn manages_keys(self) -> bool {
        matches!(self, Self::CreateKey | Self::ListKeys | Self::RevokeKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods() {
        let router = Router::new();
        for (method, path, expected) in [
            ("POST", "/experiment/a/log", Ok(Action::Append)),
            ("POST", "/experiment/a/logs", Ok(Action::AppendBatch)),
            ("GET", "/experiment/a/logs", Ok(Action::QueryLogs)),
            ("GET", "/experiment/a/log/log_1", Ok(Action::GetEntry)),
            ("GET", "/experiment/a/tail", Ok(Action::Tail)),
            ("GET", "/experiment/a/segments/0", Ok(Action::GetSegment)),
            ("GET", "/experiment/a/stats", Ok(Action::Stats)),
            ("HEAD", "/experiment/a/report", Ok(Action::Report)),
            ("POST", "/experiment/a/report", Err("method_not_allowed")),
            ("PUT", "/experiment/a", Ok(Action::Define)),
            ("HEAD", "/experiments", Ok(Action::ListExperiments)),
            ("DELETE", "/keys/x", Ok(Action::RevokeKey)),
            ("GET", "/openapi.json", Ok(Action::OpenApi)),
            ("GET", "/experiment/a/log", Err("method_not_allowed")),
            ("POST", "/experiment/a/log/", Err("not_found")),
            ("POST", "/experiment//log", Err("not_found")),
            ("POST", "/experiment/a/b/log", Err("not_found")),
            ("GET", "/", Ok(Action::Look)),
            ("POST", "/ui/sign-in", Ok(Action::Act)),
            ("GET", "/ui/experiment/a/edit", Ok(Action::Look)),
            ("GET", "/ui", Err("not_found")),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let found = router.find(path).and_then(|place| place.action(&method));
            let found = found.map_err(|error| error.code.as_str());
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn actions_stand_at_their_places() {
        let router = Router::new();
        for (place, (action, method, path)) in ACTIONS.into_iter().enumerate() {
            assert_eq!(action as usize, place);
            let path = path.replace(":slug", "a").replace(":logId", "log_1");
            let found = router.find(&path).unwrap();
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(found.action(&method).unwrap(), action);
        }
    }

    #[test]
    fn bad_slugs_are_not_found_on_use_and_refused_on_creation() {
        let router = Router::new();
        for slug in ["..", "%2f", "%00", "A", "-a", "a/", "", &"a".repeat(65)] {
            let path = format!("/experiment/{slug}");
            let place = router.find(&path).unwrap();
            let code = |method| place.slug(&method).unwrap_err().code.as_str();
            assert_eq!(code(Method::PUT), "bad_slug");
            assert_eq!(code(Method::GET), "experiment_not_found");
        }
    }
}
