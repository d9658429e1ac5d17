//! `trialog replay --to`: entries into another server, in their order, each once.
//!
//! An entry's key is its log id, so it doesn't matter how a run is cut into batches, nor how often
//! it is repeated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::client::{Address, Trust, address, connect};
use super::{Outcome, output};
use crate::log::index::variant_key_of;
use crate::model::{LogId, Slug};
use crate::offline::replay::Replayed;

/// So many entries make a batch: their keys are a header of 6 KiB, which proxies take, too.
const ENTRIES_MAX: usize = 200;
/// And so many bytes of them, unless one alone has more.
const BYTES_MAX: usize = 1 << 20;
/// A broken connection is tried again so often, after 0.1 s, 0.2 s, 0.4 s and so on: 6 s in all.
const CONNECTIONS_MAX: u32 = 7;
/// An answer that takes longer doesn't come.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// An answer that says when to try again is heeded so often.
const REFUSALS_MAX: u32 = 30;
/// The longest wait that such an answer is granted.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so many entries it is told where to go on.
const TOLD_EACH: u64 = 100_000;

/// Where `replay` sends entries instead of printing them.
#[derive(Debug, Clone, clap::Args)]
// Its name must not be that of the arguments that it is among.
#[group(id = "send")]
pub struct Args {
    /// Send the entries to this server, into experiments of the same names, which must be there. Each
    /// has its log id as its idempotency key: a run that broke off can be repeated.
    #[arg(long, value_name = "URL", value_parser = address, conflicts_with = "output")]
    to: Option<Address>,
    /// The key for --to.
    #[arg(long, env = "TRIALOG_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    #[command(flatten)]
    trust: Trust,
    /// At most so many entries a second.
    #[arg(long, value_name = "COUNT", requires = "to",
        value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

impl Args {
    /// What sends, if that is asked for.
    pub fn sender(&self) -> Result<Option<Sender>> {
        let Some(to) = self.to.clone() else {
            return Ok(None);
        };
        let key = self.api_key.clone();
        let key =
            key.context("--to needs a key with the scope ingest: --api-key, TRIALOG_API_KEY")?;
        let mut key = HeaderValue::from_str(&key)
            .context("the API key can't be sent: it has characters that a header can't")?;
        key.set_sensitive(true);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // A low rate makes small batches, so that it is even.
        let each_tenth = |rate: u32| rate.div_ceil(10) as usize;
        let entries_max = self.rate.map_or(ENTRIES_MAX, each_tenth).min(ENTRIES_MAX);
        let mut sender = Sender {
            target: Target {
                to,
                trust: self.trust.clone(),
                key,
                connection: None,
            },
            runtime,
            rate: self.rate,
            begun: Instant::now(),
            entries_max,
            batch: Batch::default(),
            sent: Vec::new(),
        };
        // One that isn't there is told at once.
        sender.runtime.block_on(sender.target.connected())?;
        Ok(Some(sender))
    }
}

/// Sends entries, a batch at a time.
pub struct Sender {
    target: Target,
    runtime: tokio::runtime::Runtime,
    rate: Option<u32>,
    begun: Instant,
    entries_max: usize,
    batch: Batch,
    /// What is there of each experiment.
    sent: Vec<Sent>,
}

/// What is known of the entries of one experiment that are there.
struct Sent {
    slug: Slug,
    count: u64,
    /// Those that were there before.
    repeated: u64,
    /// The last one's id: ours, and the one that it has there.
    last: Option<(LogId, LogId)>,
    /// Entries that stand there in front of one that they follow here.
    misplaced: u64,
}

/// Entries of one experiment that are sent at once: as a JSON array, since lines must not have line
/// ends in them and bodies may.
#[derive(Default)]
struct Batch {
    slug: Option<Slug>,
    body: Vec<u8>,
    ids: Vec<LogId>,
}

impl Sender {
    /// Takes an entry; it is sent with those that follow.
    pub fn take(&mut self, entry: &Replayed<'_>) -> Result<()> {
        let batch = &self.batch;
        let is_other = batch.slug.as_ref().is_some_and(|slug| slug != entry.slug);
        let is_full =
            batch.ids.len() >= self.entries_max || batch.body.len() + entry.body.len() > BYTES_MAX;
        if is_other || is_full {
            self.flush()?;
        }
        let batch = &mut self.batch;
        batch.slug.get_or_insert_with(|| entry.slug.clone());
        batch
            .body
            .push(if batch.ids.is_empty() { b'[' } else { b',' });
        batch.body.extend_from_slice(entry.body);
        batch.ids.push(entry.id);
        Ok(())
    }

    /// Sends what is left, and says what is there.
    pub fn finish(mut self) -> Result<Outcome> {
        self.flush()?;
        let mut outcome = Outcome::Done;
        for sent in &self.sent {
            let Sent { slug, count, .. } = sent;
            let (repeated, to) = (sent.repeated, &self.target.to);
            output::words(format_args!(
                "trialog: {slug}: {count} entries are on {to}, {repeated} of them were before"
            ));
            if sent.misplaced > 0 {
                let places = sent.misplaced;
                output::words(format_args!(
                    "trialog: {slug}: the order there is not the one here (places: {places}). If this \
                     repeats a run whose keys that server has forgotten, by default after a day or a \
                     million keys, entries are there twice"
                ));
                outcome = Outcome::FoundDamage;
            }
        }
        if self.sent.is_empty() {
            output::words("trialog: nothing is selected, and nothing was sent");
        }
        Ok(outcome)
    }

    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let (Some(slug), Some(last)) = (batch.slug.clone(), batch.ids.last().copied()) else {
            return Ok(());
        };
        let answer = self.runtime.block_on(async {
            if let Some(rate) = self.rate {
                let before: u64 = self.sent.iter().map(|sent| sent.count).sum();
                let due = Duration::from_secs_f64(before as f64 / f64::from(rate));
                tokio::time::sleep_until((self.begun + due).into()).await;
            }
            self.target.send(&slug, batch).await
        });
        let taken = answer.map_err(|error| {
            let where_it_stands = self.where_it_stands(&slug);
            anyhow!("{error:#}\ntrialog: {where_it_stands}")
        })?;
        self.note(slug, last, &taken);
        Ok(())
    }

    fn note(&mut self, slug: Slug, last: LogId, taken: &Taken) {
        let sent = match self.sent.iter().position(|sent| sent.slug == slug) {
            Some(at) => self.sent.remove(at),
            None => Sent {
                slug,
                count: 0,
                repeated: 0,
                last: None,
                misplaced: 0,
            },
        };
        self.sent.push(sent);
        let Some(sent) = self.sent.last_mut() else {
            return;
        };
        let mut before = sent.last.map(|(_, there)| there);
        for id in &taken.ids {
            sent.misplaced += u64::from(before.is_some_and(|before| before >= *id));
            before = Some(*id);
        }
        let told = sent.count / TOLD_EACH;
        sent.count += taken.ids.len() as u64;
        sent.repeated += taken.repeated;
        sent.last = before.map(|there| (last, there));
        if sent.count / TOLD_EACH > told {
            let Sent { slug, count, .. } = sent;
            output::words(format_args!(
                "trialog: {slug}: {count} entries are there, up to {last}"
            ));
        }
    }

    /// How to go on after an error.
    fn where_it_stands(&self, slug: &Slug) -> String {
        let sent = self.sent.iter().find(|sent| sent.slug == *slug);
        let last = sent.and_then(|sent| sent.last);
        match (sent, last) {
            (Some(sent), Some((last, _))) => {
                let count = sent.count;
                format!(
                    "{slug}: {count} entries are on {to}, up to {last}; once this is settled, the same \
                     command goes on (within a day and a million entries; later with --after {last})",
                    to = self.target.to.authority()
                )
            }
            _ => format!(
                "{slug}: no entry was sent to {}",
                self.target.to.authority()
            ),
        }
    }
}

/// The server, and the connection to it.
struct Target {
    to: Address,
    trust: Trust,
    key: HeaderValue,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What the server says of a batch that it has.
struct Taken {
    ids: Vec<LogId>,
    repeated: u64,
}

/// An answer that is read.
struct Answered {
    status: StatusCode,
    retry_after: Option<Duration>,
    repeated: u64,
    json: Value,
}

impl Target {
    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = None;
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => Ok(empty.insert(connect(&self.to, &self.trust).await?)),
        }
    }

    /// Sends a batch until it is answered for good. That is safe: what is there isn't stored again.
    async fn send(&mut self, slug: &Slug, mut batch: Batch) -> Result<Taken> {
        batch.body.push(b']');
        let body = Bytes::from(batch.body);
        let keys: Vec<String> = batch.ids.iter().map(LogId::to_string).collect();
        let keys = keys.join(" ");
        let (mut broken, mut refused) = (0, 0);
        loop {
            let tried = tokio::time::timeout(ANSWER_MAX, self.try_once(slug, &keys, body.clone()));
            let tried = tried
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer came")));
            let wait = match tried {
                Err(error) if broken + 1 >= CONNECTIONS_MAX => {
                    let what = format!("{} failed {CONNECTIONS_MAX} times", self.to.authority());
                    return Err(error.context(what));
                }
                Err(_) => {
                    self.connection = None;
                    broken += 1;
                    Duration::from_millis(100 << (broken - 1))
                }
                Ok(answered) if answered.status.is_success() => {
                    return answered.taken(batch.ids.len());
                }
                Ok(answered) => match answered.retry_after {
                    Some(wait) if refused < REFUSALS_MAX => {
                        refused += 1;
                        wait.min(WAIT_MAX)
                    }
                    _ => return Err(self.refusal(slug, &answered, &batch.ids, &body)),
                },
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_once(&mut self, slug: &Slug, keys: &str, body: Bytes) -> Result<Answered> {
        let request = Request::post(format!("/experiment/{slug}/logs"))
            .header("host", self.to.authority().as_str())
            .header("x-api-key", self.key.clone())
            .header("content-type", "application/json")
            .header("idempotency-keys", keys)
            .body(Full::new(body))?;
        let connection = self.connected().await?;
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let number = |name: &str| -> Option<u64> {
            let value = response.headers().get(name)?;
            value.to_str().ok()?.parse().ok()
        };
        let retry_after = number(RETRY_AFTER.as_str()).map(Duration::from_secs);
        let repeated = number("trialog-repeated").unwrap_or(0);
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(Answered {
            status,
            retry_after,
            repeated,
            json: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }

    /// What an answer means that is an error, and what to do.
    fn refusal(
        &self,
        slug: &Slug,
        answered: &Answered,
        ids: &[LogId],
        body: &[u8],
    ) -> anyhow::Error {
        let text = |path| answered.json.pointer(path).and_then(Value::as_str);
        let code = text("/error/code").unwrap_or_default();
        let Some(message) = text("/error/message") else {
            return anyhow!("{} answered {}", self.to.authority(), answered.status);
        };
        let to = self.to.authority();
        match (answered.status, code) {
            (_, "experiment_not_found") => {
                let variants = variants_of(body);
                anyhow!(
                    "{to} has no experiment {slug}. Make it first: trialog experiment create \
                     {slug}{variants} --server {}",
                    self.to
                )
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                anyhow!("{message} (the key is that of --api-key or TRIALOG_API_KEY)")
            }
            (_, "body_too_large") => anyhow!("{message}: {to} needs a higher --max-batch"),
            (_, "storage_full") => anyhow!("{message}; make room on the disk of {to}"),
            (_, "storage_failed") => anyhow!("{message}; restart {to}, which checks its disk"),
            _ => match named_entry(message, ids) {
                Some((id, message)) => anyhow!("{to} refuses {id}: {message}"),
                None => anyhow!("{to} refuses entries: {message}"),
            },
        }
    }
}

impl Answered {
    fn taken(&self, count: usize) -> Result<Taken> {
        let ids = self.json.get("logIds").and_then(Value::as_array);
        let ids = ids
            .into_iter()
            .flatten()
            .map(|id| id.as_str()?.parse().ok());
        let ids: Option<Vec<LogId>> = ids.collect();
        match ids {
            Some(ids) if ids.len() == count => Ok(Taken {
                ids,
                repeated: self.repeated,
            }),
            _ => bail!("the answer isn't one of trialog's: there must be an id for each entry"),
        }
    }
}

/// The entry that a message speaks of, as `element 3: …`, and the rest of it.
fn named_entry<'a>(message: &'a str, ids: &[LogId]) -> Option<(LogId, &'a str)> {
    let (number, rest) = message.strip_prefix("element ")?.split_once(": ")?;
    let number: usize = number.parse().ok()?;
    Some((*ids.get(number.checked_sub(1)?)?, rest))
}

/// Flags for the variants of the entries in a batch.
fn variants_of(body: &[u8]) -> String {
    let bodies: Vec<&serde_json::value::RawValue> =
        serde_json::from_slice(body).unwrap_or_default();
    let mut keys: Vec<_> = bodies
        .into_iter()
        .map(|body| variant_key_of(body.get().as_bytes()))
        .collect();
    keys.sort();
    keys.dedup();
    let quoted = |key: &str| format!(" --variant '{}'", key.replace('\'', r"'\''"));
    keys.iter().map(|key| quoted(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_entry_is_named_by_its_id() {
        let ids = [1, 2].map(LogId::from_u128);
        let named = named_entry("element 2: variantKey is not one of \"A\"", &ids);
        assert_eq!(named, Some((ids[1], "variantKey is not one of \"A\"")));
        for other in ["element 3: x", "element 0: x", "element", "the body", ""] {
            assert_eq!(named_entry(other, &ids), None, "{other}");
        }
    }

    #[test]
    fn variants_are_written_for_a_shell() {
        let body = br#"[{"variantKey":"B"},{"variantKey":"it's"},{"variantKey":"B"}]"#;
        assert_eq!(variants_of(body), r" --variant 'B' --variant 'it'\''s'");
    }
}
