//! The entries that are sent: the lines of a file, or a mix of sizes as prompts and agents have them.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;

use crate::model::VARIANT_KEY_BYTES_MAX;

/// How many different entries the built-in mix has.
const MIX_LEN: usize = 256;
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Bodies of entries, each a JSON object on one line.
#[derive(Debug)]
pub struct Entries {
    pub bodies: Vec<String>,
    /// The variants that they name.
    pub variants: Vec<String>,
}

impl Entries {
    /// The same entries on every machine.
    pub fn mix() -> Self {
        let mut random = Rng::with_seed(1);
        let bodies = (0..MIX_LEN).map(|_| mixed(&mut random)).collect();
        Self {
            bodies,
            variants: ["A", "B"].map(String::from).into(),
        }
    }

    /// The lines of a file; empty ones are passed over.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let unreadable = || format!("can't read {name}");
        let len = std::fs::metadata(path).with_context(unreadable)?.len();
        let mib_max = FILE_BYTES_MAX >> 20;
        ensure!(
            len <= FILE_BYTES_MAX,
            "{name} is larger than {mib_max} MiB: take a part of it"
        );
        let bytes = std::fs::read(path).with_context(unreadable)?;
        let mut entries = Self {
            bodies: Vec::new(),
            variants: Vec::new(),
        };
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if !line.is_empty() {
                let taken = entries.take(line);
                taken.with_context(|| format!("{name}, line {}", at + 1))?;
            }
        }
        ensure!(!entries.bodies.is_empty(), "{name} has no entries");
        Ok(entries)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let body = std::str::from_utf8(line).context("not UTF-8")?;
        let variant = variant_of(body)?;
        if !self.variants.contains(&variant) {
            self.variants.push(variant);
        }
        self.bodies.push(body.to_owned());
        Ok(())
    }

    /// The length of a body, in the mean.
    pub fn mean_bytes(&self) -> usize {
        let total: usize = self.bodies.iter().map(String::len).sum();
        total / self.bodies.len().max(1)
    }
}

/// What the server asks of an entry, as far as it can be said before it is asked.
fn variant_of(body: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "variantKey")]
        variant_key: String,
    }
    ensure!(body.starts_with('{'), "an entry is a JSON object");
    let Entry { variant_key } = serde_json::from_str(body).map_err(|error| {
        // It is one line, whose number is known better.
        anyhow!(error.to_string().replace(" at line 1 column", ", column"))
    })?;
    let len = variant_key.len();
    ensure!(
        (1..=VARIANT_KEY_BYTES_MAX).contains(&len),
        "a variantKey has 1 to {VARIANT_KEY_BYTES_MAX} bytes"
    );
    Ok(variant_key)
}

/// An execution of a prompt: mostly a question and an answer of some sentences, now and then a long
/// context or a long answer.
fn mixed(random: &mut Rng) -> String {
    let (input_words, output_words) = match random.u8(..100) {
        0..60 => (random.usize(4..20), random.usize(10..60)),
        60..90 => (random.usize(20..80), random.usize(40..200)),
        90..99 => (random.usize(80..400), random.usize(100..600)),
        _ => (random.usize(1000..3000), random.usize(200..1500)),
    };
    let variant = random.choice(["A", "B"]).unwrap_or("A");
    let (query, response) = (words(random, input_words), words(random, output_words));
    let latency_ms = random.u32(80..9000);
    let tokens = (input_words + output_words) * 4 / 3;
    let cost = random.u32(1..9999);
    let rating = random.u8(1..6);
    let session = random.u64(..);
    format!(
        r#"{{"variantKey":"{variant}","input":{{"query":"{query}"}},"output":{{"response":"{response}"}},"metrics":{{"latency_ms":{latency_ms},"token_count":{tokens},"cost_usd":0.{cost:06},"user_rating":{rating}}},"context":{{"session_id":"session_{session:016x}","environment":"production"}}}}"#
    )
}

fn words(random: &mut Rng, count: usize) -> String {
    const WORDS: [&str; 24] = [
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "model",
        "answer",
        "which",
        "recent",
        "improvements",
        "language",
        "include",
        "variant",
        "was",
        "chosen",
        "because",
        "users",
        "prefer",
        "short",
        "précis",
        "results",
        "with",
        "sources",
    ];
    let picked: Vec<&str> = (0..count)
        .map(|_| random.choice(WORDS).unwrap_or_default())
        .collect();
    picked.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_mix_is_json_of_many_sizes_and_always_the_same() {
        let mix = Entries::mix();
        assert_eq!(mix.bodies, Entries::mix().bodies);
        for body in &mix.bodies {
            assert!(serde_json::from_str::<Value>(body).is_ok(), "{body}");
            assert!(mix.variants.contains(&variant_of(body).unwrap()));
        }
        let mut lens: Vec<usize> = mix.bodies.iter().map(String::len).collect();
        lens.sort_unstable();
        assert!(lens[0] < 400 && lens[MIX_LEN - 1] > 8000, "{lens:?}");
        assert!((500..900).contains(&lens[MIX_LEN / 2]), "{lens:?}");
    }

    #[test]
    fn a_line_that_is_no_entry_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries");
        for (second, words) in [
            ("[]", "line 3: an entry is a JSON object"),
            ("{}", "line 3: missing field `variantKey`, column 2"),
            (r#"{"variantKey":1}"#, "line 3: invalid type: integer `1`"),
            (r#"{"variantKey":""}"#, "line 3: a variantKey has 1 to 128"),
            (r#"{"variantKey":"A""#, "line 3: EOF while parsing"),
            ("{\"variantKey\":\"A\"}{}", "line 3: trailing characters"),
        ] {
            std::fs::write(&path, format!("{{\"variantKey\":\"A\"}}\n\n{second}\n")).unwrap();
            let error = format!("{:#}", Entries::read(&path).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
        std::fs::write(&path, b"{\"variantKey\":\"\xff\"}").unwrap();
        let error = format!("{:#}", Entries::read(&path).unwrap_err());
        assert!(error.contains("line 1: not UTF-8"), "{error}");
        std::fs::write(&path, "\n").unwrap();
        let error = format!("{:#}", Entries::read(&path).unwrap_err());
        assert!(error.contains("has no entries"), "{error}");
        let lines = "{\"variantKey\":\"A\"}\r\n {\"variantKey\":\"C\",\"x\":1}";
        std::fs::write(&path, lines).unwrap();
        let entries = Entries::read(&path).unwrap();
        assert_eq!(entries.variants, ["A", "C"]);
        assert_eq!(entries.bodies[1], r#"{"variantKey":"C","x":1}"#);
    }
}
