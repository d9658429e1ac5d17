//! Which variants an experiment has, defined or met, and which entries can't be one of them.

use std::collections::HashSet;

use tracing::error;

use super::Actor;
use crate::experiment::error::{AppendError, ReadError};
use crate::model::NewEntry;

/// Variant keys that an error names.
const NAMED_VARIANTS_MAX: usize = 20;

impl Actor {
    /// Why entries with these variants can't be appended, if that is so. Takes note of new ones.
    pub(super) async fn refused_variant(&mut self, entries: &[NewEntry]) -> Option<AppendError> {
        let mut new: HashSet<&str> = HashSet::new();
        for (position, entry) in entries.iter().enumerate() {
            let variants = &self.file.definition.variants;
            if variants
                .iter()
                .any(|variant| variant.key == entry.variant_key)
            {
                continue;
            }
            if !self.file.definition.open_variants {
                return Some(AppendError::UnknownVariant {
                    position,
                    key: entry.variant_key.clone(),
                    defined: variants
                        .iter()
                        .take(NAMED_VARIANTS_MAX)
                        .map(|variant| variant.key.clone())
                        .collect(),
                });
            }
            if let Err(error) = self.load_met_variants().await {
                error!(%error, "reading which variants an experiment has");
                return Some(match error {
                    ReadError::Overloaded => AppendError::Overloaded,
                    _ => AppendError::Failed,
                });
            }
            if new.contains(&*entry.variant_key) || self.has_met(&entry.variant_key) {
                continue;
            }
            if self.variant_count() + new.len() >= self.shared.variants_max {
                return Some(AppendError::TooManyVariants { position });
            }
            new.insert(&entry.variant_key);
        }
        // Only now: a refused append uses up no place.
        if let Some(met) = &mut self.met_variants {
            met.extend(new.into_iter().map(Box::from));
        }
        None
    }

    async fn load_met_variants(&mut self) -> Result<(), ReadError> {
        if self.met_variants.is_none() {
            let summary = self.summary().await?;
            let met = summary.variants.into_iter().map(|v| v.key);
            self.met_variants = Some(met.collect());
        }
        Ok(())
    }

    fn has_met(&self, key: &str) -> bool {
        let met = self.met_variants.as_ref();
        met.is_some_and(|met| met.contains(key))
    }

    /// The variants that are defined or were met; many are both.
    fn variant_count(&self) -> usize {
        let met = self.met_variants.as_ref().map_or(0, HashSet::len);
        let defined = self.file.definition.variants.iter();
        met + defined
            .filter(|variant| !self.has_met(&variant.key))
            .count()
    }
}
