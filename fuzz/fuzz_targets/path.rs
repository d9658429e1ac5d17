//! Any request target: the router finds what a plain splitting of the path finds, and no slug
//! leads out of the folder of experiments.
#![no_main]

use std::path::Path;

use hyper::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use trialog::experiment::folder::{experiment_dir, experiments_dir};
use trialog::http::router::{Action, Router};
use trialog::model::Slug;

fuzz_target!(|target: &[u8]| {
    // What hyper takes as the target of a request, in any of its forms.
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    let path = uri.path();
    let router = Router::new();
    for method in [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
    ] {
        let place = router.find(path);
        let found = place.and_then(|place| Ok((place.action(&method)?, place)));
        let found = found.map_err(|error| error.code.as_str());
        match (expected(path, &method), found) {
            (Err(expected), Err(found)) => assert_eq!(expected, found, "{method} {path}"),
            (Ok((action, slug, id)), Ok((found, place))) => {
                assert_eq!(
                    (action, slug, id),
                    (found, place.slug, place.id),
                    "{method} {path}"
                );
                check_slug(
                    slug,
                    place.slug(&method).map_err(|error| error.code.as_str()),
                    found,
                );
            }
            (expected, found) => panic!("{method} {path}: {expected:?}, and found {found:?}"),
        }
    }
});

type Asked<'p> = (Action, Option<&'p str>, Option<&'p str>);

/// What the table in `README.md` says.
fn expected<'p>(path: &'p str, method: &Method) -> Result<Asked<'p>, &'static str> {
    let is_get = method == Method::GET || method == Method::HEAD;
    let parts: Vec<&str> = path.split('/').collect();
    let by = |cases: &[(bool, Action)], slug, id| {
        let fitting = cases.iter().find(|(fits, _)| *fits);
        fitting.map_or(Err("method_not_allowed"), |(_, action)| {
            Ok((*action, slug, id))
        })
    };
    let is = |asked: Method| *method == asked;
    let one = |slug| {
        let cases = [
            (is_get, Action::Describe),
            (is(Method::PUT), Action::Define),
            (is(Method::DELETE), Action::Delete),
        ];
        by(&cases, Some(slug), None)
    };
    let pages = [(is_get, Action::Look), (is(Method::POST), Action::Act)];
    match parts.as_slice() {
        ["", ""] => by(&pages, None, None),
        ["", "ui", page @ ..] if !page.iter().all(|part| part.is_empty()) || page.len() > 1 => {
            by(&pages, None, None)
        }
        ["", "health"] => by(&[(is_get, Action::Health)], None, None),
        ["", "ready"] => by(&[(is_get, Action::Ready)], None, None),
        ["", "experiments"] => by(&[(is_get, Action::ListExperiments)], None, None),
        ["", "openapi.json"] => by(&[(is_get, Action::OpenApi)], None, None),
        ["", "metrics"] => by(&[(is_get, Action::Metrics)], None, None),
        ["", "keys"] => {
            let cases = [
                (is_get, Action::ListKeys),
                (is(Method::POST), Action::CreateKey),
            ];
            by(&cases, None, None)
        }
        ["", "keys", id] if !id.is_empty() => {
            by(&[(is(Method::DELETE), Action::RevokeKey)], None, Some(*id))
        }
        ["", "experiment", slug] => one(*slug),
        // With a slash behind it, it is no slug; whoever creates one is told so.
        ["", "experiment", slug, ""] if !slug.is_empty() => {
            one(path.get("/experiment/".len()..).unwrap_or_default())
        }
        ["", "experiment", slug, "log"] if !slug.is_empty() => {
            by(&[(is(Method::POST), Action::Append)], Some(*slug), None)
        }
        ["", "experiment", slug, "logs"] if !slug.is_empty() => {
            let cases = [
                (is_get, Action::QueryLogs),
                (is(Method::POST), Action::AppendBatch),
            ];
            by(&cases, Some(*slug), None)
        }
        ["", "experiment", slug, "segments"] if !slug.is_empty() => {
            by(&[(is_get, Action::ListSegments)], Some(*slug), None)
        }
        ["", "experiment", slug, "segments", id] if !slug.is_empty() && !id.is_empty() => {
            by(&[(is_get, Action::GetSegment)], Some(*slug), Some(*id))
        }
        ["", "experiment", slug, "tail"] if !slug.is_empty() => {
            by(&[(is_get, Action::Tail)], Some(*slug), None)
        }
        ["", "experiment", slug, "stats"] if !slug.is_empty() => {
            by(&[(is_get, Action::Stats)], Some(*slug), None)
        }
        ["", "experiment", slug, "report"] if !slug.is_empty() => {
            by(&[(is_get, Action::Report)], Some(*slug), None)
        }
        ["", "experiment", slug, "log", id] if !slug.is_empty() && !id.is_empty() => {
            by(&[(is_get, Action::GetEntry)], Some(*slug), Some(*id))
        }
        _ => Err("not_found"),
    }
}

fn check_slug(text: Option<&str>, found: Result<Option<Slug>, &str>, action: Action) {
    let is_slug = |text: &str| {
        let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
        (1..=64).contains(&text.len()) && !text.starts_with(['_', '-']) && text.chars().all(fits)
    };
    match (text, found) {
        (None, Ok(None)) => {}
        (Some(text), Ok(Some(slug))) => {
            assert!(is_slug(text) && slug.as_str() == text);
            let store = Path::new("/store");
            let dir = experiment_dir(store, &slug);
            assert_eq!(dir.parent(), Some(&*experiments_dir(store)));
            assert_eq!(dir.components().count(), 4);
        }
        (Some(text), Err(code)) => {
            assert!(!is_slug(text));
            let expected = if action == Action::Define {
                "bad_slug"
            } else {
                "experiment_not_found"
            };
            assert_eq!(code, expected);
        }
        other => panic!("{other:?}"),
    }
}
