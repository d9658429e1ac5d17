//! `GET /openapi.json`: the document says what the code does, and nothing else. What is sent by it, and
//! whether answers are as it says, is for `schemathesis`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use trialog::http::error::Code;
use trialog::http::router::{ACTIONS, Action, Router};
use trialog::http::{DOCUMENT, Limits};
use trialog::model::{
    IDEMPOTENCY_KEY_BYTES_MAX, SLUG_BYTES_MAX, VARIANT_KEY_BYTES_MAX, VARIANTS_MAX,
};

use crate::server::{EXAMPLE, Server, run};

const PATH: &str = "/openapi.json";
/// What every request with a key may meet, whatever it asks for.
const ALWAYS: [&str; 7] = ["400", "401", "414", "429", "431", "500", "503"];

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// What programs ask for; the dashboard's pages are for people.
pub fn actions() -> impl Iterator<Item = (Action, &'static str, &'static str)> {
    let is_page = |action| matches!(action, Action::Look | Action::Act);
    ACTIONS
        .into_iter()
        .filter(move |(action, ..)| !is_page(*action))
}

/// An operation of the document, with what its path says of all of them.
struct Operation {
    action: Action,
    method: &'static str,
    path: &'static str,
    item: Value,
    own: Value,
}

impl Operation {
    fn all() -> Vec<Self> {
        let document = document();
        let of = |(action, method, path)| {
            let item = document["paths"][braced(path)].clone();
            let own = item[str::to_lowercase(method)].clone();
            assert!(own.is_object(), "{method} {path} is documented");
            Self {
                action,
                method,
                path,
                item,
                own,
            }
        };
        actions().map(of).collect()
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// A path that there is in a new store.
    fn example(&self) -> String {
        let id = format!("log_{}", "0".repeat(26));
        let path = self.path.replace(":slug", "demo").replace(":logId", &id);
        path.replace(":n", "0").replace(":id", "none")
    }

    fn parameters(&self, place: &str) -> BTreeSet<String> {
        let lists = [&self.item["parameters"], &self.own["parameters"]];
        let all = lists.into_iter().filter_map(Value::as_array).flatten();
        let all = all.map(resolved).filter(|one| one["in"] == place);
        all.map(|one| text(&one["name"])).collect()
    }

    fn statuses(&self) -> BTreeSet<&str> {
        let responses = self.own["responses"].as_object().unwrap();
        responses.keys().map(String::as_str).collect()
    }

    fn needs_no_key(&self) -> bool {
        let router = Router::new();
        router.find(&self.example()).unwrap().is_open()
    }

    fn takes_entries(&self) -> bool {
        matches!(self.action, Action::Append | Action::AppendBatch)
    }
}

/// `/keys/{id}` for `/keys/:id`.
fn braced(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What `$ref` names, or the value itself.
fn resolved(value: &Value) -> Value {
    match value["$ref"].as_str() {
        Some(place) => {
            let found = document()
                .pointer(place.strip_prefix('#').unwrap())
                .cloned();
            found.unwrap_or_else(|| panic!("{place} is there"))
        }
        None => value.clone(),
    }
}

/// Calls `take` with each object, and the object's name in what is around it.
fn each(name: &str, value: &Value, take: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            take(name, value);
            members
                .iter()
                .for_each(|(name, value)| each(name, value, take));
        }
        Value::Array(values) => values.iter().for_each(|value| each(name, value, take)),
        _ => {}
    }
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn routes_and_their_scopes_are_those_of_the_router() {
    let mut documented = BTreeSet::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys();
        let methods = methods.filter(|name| *name != "parameters");
        documented.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    let routes = actions().map(|(_, method, path)| (method.to_owned(), braced(path)));
    assert_eq!(documented, routes.collect());
    let router = Router::new();
    for operation in Operation::all() {
        let scopes: Vec<_> = operation
            .action
            .scope()
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut ways = vec![json!({"apiKey": scopes})];
        if router.find(&operation.example()).unwrap().takes_bearer() {
            ways.push(json!({"bearer": scopes}));
        }
        if operation.needs_no_key() {
            ways.clear();
        }
        assert_eq!(
            operation.own["security"],
            json!(ways),
            "{}",
            operation.name()
        );
        let named = operation
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix(':'));
        let named: BTreeSet<_> = named.map(str::to_owned).collect();
        assert_eq!(operation.parameters("path"), named, "{}", operation.name());
    }
}

#[test]
fn codes_and_their_statuses_are_those_of_the_table() {
    let document = document();
    let all: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(
        document["components"]["schemas"]["ErrorCode"]["enum"],
        json!(all)
    );
    let mut by_status = BTreeMap::<String, BTreeSet<&str>>::new();
    for code in Code::ALL {
        let name = format!("Status{}", code.status().as_u16());
        by_status.entry(name).or_default().insert(code.as_str());
    }
    for (name, response) in document["components"]["responses"].as_object().unwrap() {
        let description = text(&response["description"]);
        let told = quoted(&description).filter(|word| all.contains(word));
        assert_eq!(
            told.collect::<BTreeSet<_>>(),
            by_status.remove(name).unwrap_or_default()
        );
    }
    assert_eq!(
        by_status,
        BTreeMap::new(),
        "statuses that are not documented"
    );
}

#[test]
fn each_operation_has_the_statuses_that_it_can_answer() {
    for operation in Operation::all() {
        let (name, statuses) = (operation.name(), operation.statuses());
        for (status, response) in operation.own["responses"].as_object().unwrap() {
            if let Some(place) = response["$ref"].as_str()
                && let Some(documented) = place.strip_prefix("#/components/responses/Status")
            {
                assert_eq!(status, documented, "{name}");
            }
        }
        let mut expected = BTreeSet::from(ALWAYS);
        if operation.action.scope().is_some() {
            expected.insert("403");
        }
        if operation.path.contains(':') && operation.action != Action::Define {
            expected.insert("404");
        }
        if operation.own["requestBody"].is_object() {
            expected.extend(["408", "409", "413", "415"]);
        }
        if operation.needs_no_key() {
            expected.clear();
        }
        // What is left is of the operation itself.
        let own: Vec<_> = statuses.difference(&expected).copied().collect();
        assert!(statuses.is_superset(&expected), "{name}: {statuses:?}");
        let expected: &[&str] = match operation.action {
            Action::Append | Action::AppendBatch => &["200", "507"],
            Action::Define => &["200", "201", "507"],
            Action::Delete => &["200", "507"],
            Action::CreateKey => &["201"],
            Action::RevokeKey => &["200", "409"],
            Action::GetSegment => &["200", "206", "304", "409", "416"],
            Action::OpenApi => &["200", "304"],
            Action::Ready => &["200", "503"],
            _ => &["200"],
        };
        assert_eq!(own, expected, "{name}");
    }
}

#[test]
fn query_parameters_are_those_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    for operation in Operation::all() {
        let (name, documented) = (operation.name(), operation.parameters("query"));
        let path = format!("{}?no-such=1", operation.example());
        let answer = server.ask(operation.method, &path, r#"{"variantKey":"A"}"#);
        if operation.takes_entries() || operation.needs_no_key() {
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            assert_eq!(documented, BTreeSet::new(), "{name}");
            continue;
        }
        answer.assert_error(400, "unknown_parameter", "this path takes ", &name);
        let message = answer.message();
        let (_, taken) = message.split_once("this path takes ").unwrap();
        let taken = taken.split(", ").filter(|name| *name != "none");
        let taken: BTreeSet<_> = taken.map(str::to_owned).collect();
        assert_eq!(taken, documented, "{name}");
    }
}

#[test]
fn limits_are_those_of_the_code() {
    let document = document();
    let at = |place: &str| {
        document
            .pointer(place)
            .unwrap_or_else(|| panic!("{place}"))
            .clone()
    };
    for (place, limit) in [
        (
            "/components/schemas/VariantKey/maxLength",
            VARIANT_KEY_BYTES_MAX,
        ),
        (
            "/components/schemas/Definition/properties/variants/maxItems",
            VARIANTS_MAX,
        ),
        (
            "/components/parameters/IdempotencyKey/schema/maxLength",
            IDEMPOTENCY_KEY_BYTES_MAX,
        ),
        (
            "/paths/~1experiment~1{slug}~1logs/post/requestBody/content/application~1json/schema/anyOf/0/maxItems",
            trialog::http::json::ENTRIES_MAX,
        ),
    ] {
        assert_eq!(at(place), limit, "{place}");
    }
    let slug = text(&at("/components/schemas/Slug/pattern"));
    assert!(
        slug.ends_with(&format!("{{0,{}}}$", SLUG_BYTES_MAX - 1)),
        "{slug}"
    );
    let limits = Limits::default();
    for (place, limit) in [
        (
            "/paths/~1experiment~1{slug}~1log/post/requestBody/description",
            limits.body_bytes_max,
        ),
        (
            "/paths/~1experiment~1{slug}~1logs/post/requestBody/description",
            limits.batch_bytes_max,
        ),
        (
            "/components/responses/Status414/description",
            limits.url_bytes_max,
        ),
        (
            "/components/responses/Status431/description",
            limits.header_bytes_max,
        ),
    ] {
        let words = match limit >> 20 {
            0 => format!("{} KiB", limit >> 10),
            mib => format!("{mib} MiB"),
        };
        assert!(text(&at(place)).contains(&words), "{place}: {words}");
    }
    let tail = text(&at("/paths/~1experiment~1{slug}~1tail/get/description"));
    let beat = limits.tail_beat.as_secs();
    assert!(tail.contains(&format!("Every {beat} s ")), "{tail}");
}

/// Where a setting is named, it is one.
#[test]
fn settings_are_those_of_the_command() {
    let printed = run(&["serve", "--print-config"]).stdout;
    let printed = String::from_utf8(printed).unwrap();
    let is_setting = |name: &str| printed.contains(&format!("{name} = "));
    let mut count = 0;
    each("", &document(), &mut |_, value| {
        let description = value["description"].as_str().unwrap_or_default();
        for (_, behind) in description
            .match_indices("(setting")
            .map(|(at, _)| description.split_at(at))
        {
            let named = behind.split(')').next().unwrap_or_default();
            for name in quoted(named) {
                assert!(is_setting(name), "{name} in: {description}");
                count += 1;
            }
        }
    });
    assert!(count > 5, "{count}");
}

#[test]
fn what_is_named_is_there_and_what_is_there_is_named() {
    let document = document();
    let mut named = BTreeSet::new();
    let mut operations = BTreeSet::new();
    let mut linked = BTreeSet::new();
    each("", &document, &mut |_, value| {
        if let Some(place) = value["$ref"].as_str() {
            resolved(value);
            named.insert(place.to_owned());
        }
        if let Some(operation) = value["operationId"].as_str() {
            match value["responses"].is_object() {
                true => assert!(operations.insert(operation.to_owned()), "{operation} twice"),
                false => _ = linked.insert(operation.to_owned()),
            }
        }
    });
    assert!(linked.is_subset(&operations), "{linked:?}");
    for (kind, components) in document["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            let place = format!("#/components/{kind}/{name}");
            // No operation answers 405, since it is of no operation; schemes are named in their own way.
            let is_named =
                named.contains(&place) || name == "Status405" || kind == "securitySchemes";
            assert!(is_named, "{place} is used");
        }
    }
    let tags = document["tags"].as_array().unwrap().iter();
    let tags: BTreeSet<_> = tags.map(|tag| text(&tag["name"])).collect();
    for operation in Operation::all() {
        assert!(
            tags.contains(&text(&operation.own["tags"][0])),
            "{}",
            operation.name()
        );
        assert!(operation.own["summary"].is_string(), "{}", operation.name());
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn its_examples_work() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut count = 0;
    for operation in Operation::all() {
        let Some(content) = operation.own["requestBody"]["content"].as_object() else {
            continue;
        };
        for (media_type, content) in content {
            let several = content["examples"].as_object().into_iter().flatten();
            let several = several.map(|(_, example)| resolved(example)["value"].clone());
            let one = content.get("example").cloned();
            for example in several.chain(one) {
                let body = example.as_str().map_or(example.to_string(), str::to_owned);
                let headers = [
                    ("x-api-key", server.key.as_str()),
                    ("content-type", media_type),
                ];
                let mut client = server.connect();
                let (method, path) = (operation.method, operation.example());
                let answer = client
                    .send(method, &path, &headers, body.as_bytes())
                    .unwrap();
                assert!(matches!(answer.status, 200 | 201), "{path}: {answer:?}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 7);
    let entry = &document()["components"]["examples"]["NewEntry"]["value"];
    assert_eq!(*entry, serde_json::from_str::<Value>(EXAMPLE).unwrap());
}

#[test]
fn it_is_for_every_key_and_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let whole = server.ask("GET", PATH, "");
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), Some("application/json"));
    assert_eq!(whole.body, DOCUMENT.as_bytes());
    let tag = whole.header("etag").unwrap();
    assert!(
        tag.len() == 18 && tag.starts_with('"') && tag.ends_with('"'),
        "{tag}"
    );
    for (known, status) in [(tag, 304), ("\"another\"", 200), ("*", 304)] {
        let headers = [("x-api-key", server.key.as_str()), ("if-none-match", known)];
        let answer = server.connect().send("GET", PATH, &headers, b"").unwrap();
        assert_eq!(answer.status, status, "{known}");
        assert_eq!(answer.header("etag"), Some(tag));
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    for request in [
        r#"{"name":"a","scopes":["ingest"]}"#,
        r#"{"name":"b","scopes":["read"],"experiments":["none"]}"#,
    ] {
        let (_, key) = server.make_key(request);
        assert_eq!(server.ask_as(&key, "GET", PATH).status, 200, "{request}");
    }
    let key = [("x-api-key", server.key.as_str())];
    let head = server.connect().send("HEAD", PATH, &key, b"").unwrap();
    assert_eq!(
        head.header("content-length"),
        Some(&*DOCUMENT.len().to_string())
    );
    let refused = server.ask_as("wrong", "GET", PATH);
    refused.assert_error(401, "api_key_invalid", "no valid key", "a wrong key");
    let refused = server.ask("POST", PATH, "");
    refused.assert_error(405, "method_not_allowed", "GET, HEAD", "another method");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
}
