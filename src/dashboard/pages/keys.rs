//! Keys: which there are, making one, revoking one.

use maud::{Markup, html};

use crate::dashboard::layout::{trail, wrong};
use crate::dashboard::link;

/// Keys that are listed.
const SHOWN_MAX: usize = 100;

/// A key, without its secret.
pub struct KeyRow {
    /// What names it in the API.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// The experiments it reaches, as globs; none for all.
    pub experiments: Vec<String>,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was last used.
    pub last_used_at: Option<String>,
    /// Whether the visitor signed in with it.
    pub is_own: bool,
}

/// What the form holds, as it was written.
#[derive(Debug, Default)]
pub struct Fields {
    /// What the key is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// The experiments it reaches.
    pub experiments: String,
    /// When it ends.
    pub expires_at: String,
}

/// A key that was just made.
pub struct Made<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its text, which nothing else ever shows.
    pub key: &'a str,
    /// Where the server is.
    pub server: &'a str,
    /// An experiment that it reaches, and one of its variants.
    pub example: (String, String),
    /// Whether it may log entries.
    pub may_ingest: bool,
}

/// The page.
pub fn keys(rows: &[KeyRow], fields: &Fields, message: Option<&str>) -> Markup {
    html! {
        h1 { "Keys" }
        div.scroll tabindex="0" role="region" aria-label="The keys" {
            table.list {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Scopes" }
                        th scope="col" { "Experiments" }
                        th scope="col" { "Ends" }
                        th scope="col" { "Last used" }
                        th scope="col" { "Revoke" }
                    }
                }
                tbody { @for row in rows.iter().rev().take(SHOWN_MAX) { tr { (cells(row)) } } }
            }
        }
        @if rows.len() > SHOWN_MAX {
            p.muted { "The newest " (SHOWN_MAX) " of " (rows.len()) " keys; " code { "trialog key list" } " has all." }
        }
        h2 #new-key { "New key" }
        (wrong(message))
        (form(fields))
    }
}

fn cells(row: &KeyRow) -> Markup {
    let short = |time: &Option<String>| {
        time.as_deref()
            .map(|time| time.split('.').next().unwrap_or_default().replace('T', " "))
    };
    html! {
        th scope="row" {
            bdi { (row.name) }
            @if row.is_own { " " span.tag { "yours" } }
            div.muted { code { (row.id) } }
        }
        td { (row.scopes.join(", ")) }
        td { (if row.experiments.is_empty() { "all".to_owned() } else { row.experiments.join(", ") }) }
        td { (short(&row.expires_at).unwrap_or_else(|| "never".into())) }
        td { (short(&row.last_used_at).unwrap_or_else(|| "never".into())) }
        td {
            details.confirm {
                summary aria-label={ "Revoke " (row.name) } { "Revoke" }
                form method="post" action={ (link::KEYS) "/" (row.id) "/revoke" } {
                    p { "From the next request on it is refused. That can't be undone." }
                    button.danger type="submit" { "Revoke " bdi { (row.name) } }
                }
            }
        }
    }
}

fn form(fields: &Fields) -> Markup {
    html! {
        form.card.form method="post" action=(link::KEYS) {
            label for="name" { "What it is for" }
            input #name name="name" value=(fields.name) required maxlength="200" autocomplete="off";
            fieldset {
                legend { "It may" }
                @for (scope, words) in [("ingest", "log entries"), ("read", "read entries and figures"),
                    ("admin", "do everything")] {
                    p.check {
                        input id=(scope) type="checkbox" name="scope" value=(scope)
                            checked[fields.scopes.iter().any(|one| one == scope)];
                        label for=(scope) { code { (scope) } " – " (words) }
                    }
                }
            }
            label for="experiments" { "Experiments" }
            input #experiments name="experiments" value=(fields.experiments) placeholder="search-*, demo"
                autocomplete="off" spellcheck="false" aria-describedby="experiments-hint";
            p.hint #experiments-hint { "Names, in which * and ? stand for others. Empty: all." }
            label for="expires" { "Ends (UTC)" }
            input #expires type="datetime-local" name="expires_at" value=(fields.expires_at);
            button type="submit" { "Make the key" }
        }
    }
}

/// The page that shows a secret, this once.
pub fn made(made: &Made<'_>) -> Markup {
    html! {
        (trail(&[("Keys", link::KEYS)]))
        h1 { "The key " bdi { "“" (made.name) "”" } }
        section.card aria-label="The key" {
            p.warning-box { "Copy it now: it is shown this once, and can't be shown again." }
            h2 { "Its text" }
            (copied("key", "Key", made.key))
        }
        @if made.may_ingest {
            section.card aria-labelledby="use" {
                h2 #use { "Log an entry with it" }
                (copied("curl", "curl", &curl(made)))
                (copied("python", "Python", &python(made)))
                (copied("javascript", "JavaScript", &javascript(made)))
            }
        }
    }
}

fn copied(id: &str, title: &str, text: &str) -> Markup {
    html! {
        div.copy {
            h3 { (title) }
            button.quiet type="button" data-copy=(id) hidden aria-label={ "Copy " (title) } { "Copy" }
            pre tabindex="0" { code id=(id) { (text) } }
        }
    }
}

fn entry(variant: &str) -> String {
    let variant = serde_json::Value::from(variant);
    format!(
        r#"{{"variantKey": {variant}, "input": {{"query": "hello"}}, "output": {{"response": "hi"}}, "metrics": {{"latency_ms": 123}}}}"#
    )
}

fn url(made: &Made<'_>) -> String {
    format!("{}/experiment/{}/log", made.server, made.example.0)
}

fn curl(made: &Made<'_>) -> String {
    let (url, entry) = (url(made), entry(&made.example.1).replace('\'', "'\\''"));
    format!(
        "curl '{url}' \\\n  -H 'x-api-key: {}' \\\n  -H 'content-type: application/json' \\\n  -d '{entry}'",
        made.key
    )
}

fn python(made: &Made<'_>) -> String {
    let (url, entry) = (url(made), entry(&made.example.1));
    format!(
        "import json, urllib.request\n\nentry = {entry}\nrequest = urllib.request.Request(\n    \
         \"{url}\",\n    data=json.dumps(entry).encode(),\n    headers={{\"x-api-key\": \"{}\", \
         \"content-type\": \"application/json\"}},\n)\nprint(urllib.request.urlopen(request).read())",
        made.key
    )
}

fn javascript(made: &Made<'_>) -> String {
    let (url, entry) = (url(made), entry(&made.example.1));
    format!(
        "const entry = {entry};\nconst answer = await fetch(\"{url}\", {{\n  method: \"POST\",\n  headers: \
         {{\"x-api-key\": \"{}\", \"content-type\": \"application/json\"}},\n  body: \
         JSON.stringify(entry),\n}});\nconsole.log(await answer.json());",
        made.key
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_paste_hold_what_they_need() {
        let made = Made {
            name: "n",
            key: "tl_x",
            server: "http://h:1",
            example: ("demo".into(), "it's \"A\"".into()),
            may_ingest: true,
        };
        let curl = curl(&made);
        assert!(curl.starts_with("curl 'http://h:1/experiment/demo/log'"));
        assert!(curl.contains(r#""it'\''s \"A\"""#), "{curl}");
        for text in [curl, python(&made), javascript(&made)] {
            assert!(text.contains("tl_x") && text.contains("/experiment/demo/log"));
        }
    }
}
