//! The work of a run: rendered once, sent again and again, counted by experiment.

use anyhow::{Result, bail};
use fastrand::Rng;

use super::answer::Answer;
use super::driver::Work;
use super::entries::Entries;
use super::spread::Spread;
use super::tally::Tally;
use crate::model::Slug;

/// Rendered batches are kept up to about this size.
const BATCH_BYTES_MAX: usize = 16 << 20;
const BATCHES_MAX: usize = 64;

/// Appends entries to experiments.
pub struct Load {
    /// The beginning of a request, for each experiment.
    heads: Vec<Vec<u8>>,
    /// What follows it: the length of the body, and the body.
    bodies: Vec<Body>,
    next_body: usize,
    spread: Spread,
    random: Rng,
    /// What became of it all.
    pub tally: Tally,
}

struct Body {
    rendered: Vec<u8>,
    /// Its first entry, among all entries.
    first: usize,
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    experiment: usize,
    first: usize,
}

/// How entries are asked to be appended.
pub struct Shape<'a> {
    /// What stands in `host`.
    pub host: &'a str,
    pub api_key: &'a str,
    pub experiments: &'a [Slug],
    pub zipf: Option<f64>,
    /// Entries in each request; `None` for single ones.
    pub batch: Option<usize>,
    pub seed: u64,
}

impl Load {
    pub fn new(shape: &Shape<'_>, entries: &Entries, tally: Tally) -> Self {
        let heads = shape.experiments.iter().map(|slug| head(shape, slug));
        Self {
            heads: heads.collect(),
            bodies: bodies(entries, shape.batch),
            next_body: 0,
            spread: Spread::new(shape.experiments.len(), shape.zipf),
            random: Rng::with_seed(shape.seed),
            tally,
        }
    }
}

impl Work for Load {
    type Ticket = Ticket;

    fn next(&mut self, out: &mut Vec<u8>) -> Ticket {
        let experiment = self.spread.choose(&mut self.random);
        let at = self.next_body;
        self.next_body = if at + 1 < self.bodies.len() {
            at + 1
        } else {
            0
        };
        let head = self.heads.get(experiment).map(Vec::as_slice);
        out.extend_from_slice(head.unwrap_or_default());
        let mut first = 0;
        if let Some(body) = self.bodies.get(at) {
            out.extend_from_slice(&body.rendered);
            first = body.first;
        }
        Ticket { experiment, first }
    }

    fn answered(&mut self, ticket: Ticket, answer: &Answer<'_>) -> Result<()> {
        match answer.status {
            200 => self
                .tally
                .acknowledged(ticket.experiment, ticket.first, answer)?,
            // The request is wrong, and the next ones will be.
            400..500 => bail!("the server refuses entries: {}", answer.words()),
            // Nothing was stored.
            503 | 507 => {}
            _ => self.tally.unknown(ticket.experiment),
        }
        Ok(())
    }

    fn lost(&mut self, ticket: Ticket) {
        self.tally.unknown(ticket.experiment);
    }
}

/// The head of a request but for the length of its body.
pub fn head(shape: &Shape<'_>, slug: &Slug) -> Vec<u8> {
    let (what, media_type) = match shape.batch {
        None => ("log", "application/json"),
        Some(_) => ("logs", "application/x-ndjson"),
    };
    let (host, key) = (shape.host, shape.api_key);
    format!(
        "POST /experiment/{slug}/{what} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {key}\r\n\
         content-type: {media_type}\r\n"
    )
    .into_bytes()
}

fn bodies(entries: &Entries, batch: Option<usize>) -> Vec<Body> {
    let all = &entries.bodies;
    let per_request = batch.unwrap_or(1);
    let count = match batch {
        None => all.len(),
        Some(len) => {
            let bytes = len.saturating_mul(entries.mean_bytes()).max(1);
            (BATCH_BYTES_MAX / bytes).clamp(1, BATCHES_MAX)
        }
    };
    let body = |n: usize| {
        let first = n * per_request % all.len().max(1);
        let lines = all.iter().cycle().skip(first).take(per_request);
        let text = lines.map(String::as_str).collect::<Vec<_>>().join("\n");
        let rendered = format!("content-length: {}\r\n\r\n{text}", text.len()).into_bytes();
        Body { rendered, first }
    };
    (0..count).map(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_and_bring_every_entry() {
        let entries = Entries::mix();
        let experiments = ["a", "b"].map(|slug| Slug::parse(slug).unwrap());
        let mut shape = Shape {
            host: "h:1",
            api_key: "k",
            experiments: &experiments,
            zipf: None,
            batch: None,
            seed: 1,
        };
        let mut load = Load::new(&shape, &entries, Tally::new(2, 1, false, 1));
        let mut sent = Vec::new();
        for _ in 0..entries.bodies.len() {
            let mut out = Vec::new();
            load.next(&mut out);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /experiment/") && head.contains("\r\nhost: h:1\r\n"));
            assert!(head.ends_with(&format!("content-length: {}", body.len())));
            sent.push(body.to_owned());
        }
        assert_eq!(sent, entries.bodies);
        shape.batch = Some(100);
        let mut load = Load::new(&shape, &entries, Tally::new(2, 100, false, 1));
        let mut lines = Vec::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            load.next(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("/logs HTTP/1.1\r\n"));
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            lines.extend(body.lines().map(str::to_owned));
        }
        let twice = [&entries.bodies[..], &entries.bodies].concat();
        assert_eq!(lines, twice[..300]);
    }
}
