//! What the logs must hold at the end, and what they do hold.

use std::collections::HashSet;

use bytes::Bytes;

use super::*;
use crate::log::reader::{Segment, list_segments};
use crate::log::record::Record;
use crate::log::scan::Found;

/// A log that is compared at the end.
#[derive(Default)]
pub struct Expected {
    pub acknowledged: Vec<(LogId, Bytes)>,
    /// Appends that may be there, whole, or not.
    pub unsure: Vec<Vec<Bytes>>,
}

impl Expected {
    /// Everything acknowledged is there once, in order; of the rest, whole appends or nothing. What was
    /// sent again with the same key (and so the same body) is there once, too.
    pub fn check(mut self, found: &[(LogId, Bytes)]) {
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let bodies: HashSet<&Bytes> = found.iter().map(|(_, body)| body).collect();
        assert_eq!(bodies.len(), found.len(), "each body is there once");
        for bodies in self.unsure {
            let is_of_it = |(_, body): &&(LogId, Bytes)| bodies.contains(body);
            let there: Vec<_> = found.iter().filter(is_of_it).cloned().collect();
            assert!(there.is_empty() || there.len() == bodies.len());
            self.acknowledged.extend(there);
        }
        self.acknowledged.sort_by_key(|(id, _)| *id);
        self.acknowledged.dedup();
        assert_eq!(self.acknowledged, found);
    }
}

/// What the segments of an experiment hold.
pub fn entries(host: &Host, name: &str) -> Vec<(LogId, Bytes)> {
    let dir = folder::experiment_dir(Path::new(STORE), &Slug::parse(name).unwrap());
    let mut entries = Vec::new();
    for listed in list_segments(&*host.disk, &dir).unwrap() {
        let segment = Segment::open(&*host.disk, &listed.path, listed.hint).unwrap();
        for found in segment.scan() {
            match found {
                Found::Record { frame, record, .. } => {
                    if let Record::Entry(entry) = record {
                        entries.push((frame.header.id, Bytes::copy_from_slice(entry.body)));
                    }
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    entries
}
