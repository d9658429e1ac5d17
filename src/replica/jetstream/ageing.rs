//! What ageing takes of JetStream: a bucket with what each node told last, the first message since a time, and
//! purges of the front of a subject.
//!
//! All of it is asked of the leader. A server that is behind might not know of a node that has just joined.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use async_nats::Request;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::{ApiError, JetStream, Unreachable, parsed};
use crate::replica::ageing::{Report, Told};

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    state: Subjects,
    error: Option<ApiError>,
}

#[derive(Default, Deserialize)]
struct Subjects {
    subjects: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Purged {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    purged: u64,
    error: Option<ApiError>,
}

impl JetStream {
    pub(super) async fn put_report(&self, node: u64, report: &Report) -> Result<(), Unreachable> {
        let put = self.nodes.put(format!("{node:016x}"), report.encode());
        match timeout(self.request_timeout, put).await {
            Ok(Ok(_revision)) => Ok(()),
            Ok(Err(error)) => Err(Unreachable(error.to_string())),
            Err(_) => Err(Unreachable("no answer in time".into())),
        }
    }

    pub(super) async fn reports(&self) -> Result<Vec<Told>, Unreachable> {
        let prefix = &self.nodes.prefix;
        let wanted = json!({"subjects_filter": format!("{prefix}>")});
        let request = Request::new().payload(wanted.to_string().into());
        let asked = format!("$JS.API.STREAM.INFO.{}", self.nodes.stream_name);
        let answer = self.ask(asked, request).await?;
        let info: Info = parsed(&answer)?;
        if let Some(error) = info.error {
            return Err(Unreachable(error.description));
        }
        let mut all = Vec::new();
        for subject in info.state.subjects.unwrap_or_default().into_keys() {
            let asked = self.nodes.stream.get_last_raw_message_by_subject(&subject);
            let message = match timeout(self.request_timeout, asked).await {
                Ok(Ok(message)) => message,
                Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    continue;
                }
                Ok(Err(error)) => return Err(Unreachable(error.to_string())),
                Err(_) => return Err(Unreachable("no answer in time".into())),
            };
            // Somebody has deleted it: the node is to be forgotten.
            if message.payload.is_empty() {
                continue;
            }
            let key = subject.strip_prefix(prefix.as_str()).unwrap_or_default();
            let node = u64::from_str_radix(key, 16).ok();
            let at_ms = message.time.unix_timestamp_nanos() / 1_000_000;
            all.push(Told {
                node: node.unwrap_or_default(),
                at_ms: u64::try_from(at_ms).unwrap_or(0),
                report: node.and_then(|_| Report::decode(&message.payload)),
            });
        }
        Ok(all)
    }

    pub(super) async fn found_since(
        &self,
        shard: u16,
        time_ms: u64,
    ) -> Result<Option<u64>, Unreachable> {
        let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(time_ms);
        let time = time.map_err(|error| Unreachable(error.to_string()))?;
        let wanted = json!({"start_time": time.to_string(), "next_by_subj": self.subject(shard)});
        let Some(message) = self.stored(&wanted).await? else {
            return Ok(None);
        };
        // Older servers give the subject's first message, in front of which there is nothing to drop.
        let stored = message.time.parse::<jiff::Timestamp>();
        let is_old = stored.is_ok_and(|stored| stored < time);
        if is_old && !self.is_too_old.swap(true, Ordering::Relaxed) {
            warn!(
                "NATS servers before 2.11 don't find messages by time: the stream keeps everything"
            );
        }
        Ok(Some(message.seq))
    }

    pub(super) async fn purge(&self, shard: u16, sequence: u64) -> Result<u64, Unreachable> {
        // Without a sequence everything would go.
        if sequence <= 1 {
            return Ok(0);
        }
        let wanted = json!({"filter": self.subject(shard), "seq": sequence});
        let request = Request::new().payload(wanted.to_string().into());
        let asked = format!("$JS.API.STREAM.PURGE.{}", self.name);
        let answer = self.ask(asked, request).await?;
        let purged: Purged = parsed(&answer)?;
        match purged.error {
            None if purged.success => Ok(purged.purged),
            error => {
                let why = error.map(|error| error.description);
                Err(Unreachable(why.unwrap_or_default()))
            }
        }
    }
}
