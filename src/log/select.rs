//! Which entries of a log are wanted. One filter for the API and for replay.

use crate::model::LogId;

/// Which entries are wanted. What is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of these variants.
    pub variants: Vec<String>,
    /// Behind this id.
    pub after: Option<LogId>,
    /// In front of this id.
    pub before: Option<LogId>,
    /// Received at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Received before this time.
    pub until_ms: Option<u64>,
}

/// In which order entries are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As they were logged.
    #[default]
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

impl Selection {
    /// Whether all entries are wanted.
    pub fn is_all(&self) -> bool {
        let times = [self.since_ms, self.until_ms];
        let ids = [self.after, self.before];
        self.variants.is_empty() && times == [None; 2] && ids == [None; 2]
    }

    /// Whether an entry with this id, received then, may be wanted.
    pub fn takes(&self, id: LogId, received_at_ms: u64) -> bool {
        self.after.is_none_or(|after| id > after)
            && self.before.is_none_or(|before| id < before)
            && self.meets_times(received_at_ms, received_at_ms)
    }

    /// Whether entries of this variant may be wanted. The key is asked for only if it matters.
    pub fn takes_variant<K: AsRef<str>>(&self, key: impl FnOnce() -> K) -> bool {
        self.variants.is_empty() || {
            let key = key();
            self.variants.iter().any(|wanted| wanted == key.as_ref())
        }
    }

    /// Whether entries that were received from `min_ms` to `max_ms` may be wanted.
    pub fn meets_times(&self, min_ms: u64, max_ms: u64) -> bool {
        self.since_ms.is_none_or(|since| max_ms >= since)
            && self.until_ms.is_none_or(|until| min_ms < until)
    }

    /// Whether ids behind `after` and in front of `before` may be wanted.
    pub fn meets_ids(&self, after: LogId, before: Option<LogId>) -> bool {
        let lower = after.max(self.after.unwrap_or(LogId::MIN));
        let uppers = before.into_iter().chain(self.before);
        let upper = uppers.min().map_or(u128::MAX, LogId::as_u128);
        upper.saturating_sub(lower.as_u128()) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> LogId {
        LogId::from_u128(n)
    }

    #[test]
    fn bounds_are_exclusive_but_since() {
        let selection = Selection {
            after: Some(id(5)),
            before: Some(id(8)),
            since_ms: Some(10),
            until_ms: Some(20),
            ..Selection::default()
        };
        let taken = |n, at| selection.takes(id(n), at);
        assert!(taken(6, 10) && taken(7, 19));
        assert!(!taken(5, 10) && !taken(8, 10) && !taken(6, 9) && !taken(6, 20));
        assert!(selection.meets_times(0, 10) && selection.meets_times(19, 99));
        assert!(!selection.meets_times(0, 9) && !selection.meets_times(20, 99));
    }

    #[test]
    fn a_range_of_ids_is_met_where_an_id_fits_into_both() {
        let selection = Selection {
            after: Some(id(5)),
            before: Some(id(8)),
            ..Selection::default()
        };
        assert!(selection.meets_ids(id(0), Some(id(7))));
        assert!(!selection.meets_ids(id(0), Some(id(6))));
        assert!(selection.meets_ids(id(6), None));
        assert!(!selection.meets_ids(id(7), None));
        assert!(Selection::default().meets_ids(id(1), Some(id(3))));
        assert!(!Selection::default().meets_ids(id(1), Some(id(2))));
    }

    #[test]
    fn a_variant_is_asked_for_only_where_one_is_wanted() {
        assert!(Selection::default().takes_variant(|| -> &str { panic!("not asked for") }));
        let selection = Selection {
            variants: vec!["A".into(), "B".into()],
            ..Selection::default()
        };
        assert!(selection.takes_variant(|| "B") && !selection.takes_variant(|| "C"));
    }
}
