//! A store's first start: the first admin key, an experiment to try things with, and the line that tries it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, anyhow};
use tracing::{debug, info};

use super::output;
use crate::auth::check_own_key;
use crate::fs::{Host, replace_file};
use crate::http::AppState;
use crate::model::{Definition, Slug, Variant};

const DEMO: &str = "demo";

/// The operator's own text for the first admin key. Checked early, so that a bad one leaves no
/// store behind.
pub fn own_key() -> Result<Option<String>> {
    let Some(own) = std::env::var_os("TRIALOG_BOOTSTRAP_KEY") else {
        return Ok(None);
    };
    // What isn't UTF-8 isn't visible ASCII either.
    let own = own.to_string_lossy().into_owned();
    check_own_key(&own)?;
    Ok(Some(own))
}

/// The first admin key, and an experiment to try things with.
pub async fn make(
    host: &Host,
    state: &AppState,
    dir: &Path,
    own_key: Option<String>,
) -> Result<()> {
    if state.store.slugs(None, 1).is_empty() {
        let variant = |key: &str| Variant {
            key: key.into(),
            weight: None,
            control: false,
        };
        let definition = Definition {
            variants: vec![variant("A"), variant("B")],
            description: Some("made at the first start, to try things with".into()),
            ..Definition::default()
        };
        let made = state.define(&Slug::parse(DEMO)?, definition).await;
        made.map_err(|refused| anyhow!("{}", refused.message))?;
    }
    // The file before the key is in force: a start that is killed in between does it again.
    let path = dir.join("admin.key");
    let keyring = &state.keyring;
    keyring.create_first(own_key, |key| {
        replace_file(&*host.disk, &path, format!("{key}\n").as_bytes())
    })?;
    Ok(())
}

/// On stdout, and only to a terminal's user who can read the key's file anyway: a line to paste.
pub fn greet(state: &AppState, dir: &Path, address: SocketAddr, is_tls: bool) {
    info!(%address, tls = is_tls, durability = state.store.durability().as_str(), "listening");
    let key_file = dir.join("admin.key");
    let has_demo = Slug::parse(DEMO).is_ok_and(|slug| state.store.contains(&slug));
    // With TLS it takes a name that the certificate has, which only the operator knows.
    if is_tls || !has_demo || !key_file.exists() {
        return;
    }
    // It may be pasted anywhere.
    let key_file = std::path::absolute(&key_file).unwrap_or(key_file);
    let line = format!(
        "curl -sS http://{address}/experiment/{DEMO}/log -H \"x-api-key: $(cat {})\" \
         -H 'content-type: application/json' -d '{{\"variantKey\":\"A\",\"input\":{{\"query\":\
         \"What are the latest AI advancements?\"}},\"metrics\":{{\"latency_ms\":123}}}}'",
        shell_word(&key_file.to_string_lossy())
    );
    if let Err(error) = output::data(format_args!("trialog is ready. Try it:\n\n{line}\n")) {
        debug!(%error, "nobody reads stdout");
    }
}

/// `text` as a shell takes it for one word, whatever is in it.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
