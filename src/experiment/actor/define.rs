//! What an actor's experiment is: its definition, and what its log holds.

use std::io;

use tracing::info;

use super::Actor;
use crate::experiment::blocking::blocking;
use crate::experiment::definition::{self, DefinitionFile};
use crate::experiment::error::{ReadError, StoreError};
use crate::log::view::LogSummary;
use crate::model::{Definition, Description, VariantCount};

impl Actor {
    /// Changes the definition.
    pub(super) async fn define(
        &mut self,
        definition: Definition,
    ) -> Result<Description, StoreError> {
        self.check_definition(&definition).await?;
        self.write_definition(definition).await?;
        Ok(self.describe().await?)
    }

    /// Whether the definition may become this one.
    pub(super) async fn check_definition(&self, definition: &Definition) -> Result<(), StoreError> {
        // One that has more, since the setting was another, can still be changed.
        let variants_max = self.file.definition.variants.len();
        definition::check(definition, variants_max.max(self.shared.variants_max))?;
        let kept = |key: &str| {
            definition
                .variants
                .iter()
                .any(|variant| &*variant.key == key)
        };
        if !definition.open_variants {
            let summary = self.summary().await?;
            let removed = summary
                .variants
                .iter()
                .find(|v| v.count > 0 && !kept(&v.key));
            if let Some(removed) = removed {
                return Err(StoreError::VariantInUse(removed.key.clone()));
            }
        }
        Ok(())
    }

    /// Makes this the definition, durably.
    pub(super) async fn write_definition(
        &mut self,
        definition: Definition,
    ) -> Result<(), StoreError> {
        let file = DefinitionFile {
            definition,
            ..self.file.clone()
        };
        let (disk, dir) = (self.shared.host.disk.clone(), self.options.dir.clone());
        let (written, file) = blocking(move || Ok((file.write(&*disk, &dir), file)))
            .await
            .map_err(StoreError::of)?;
        written.map_err(StoreError::of)?;
        self.file = file;
        self.limits.set(definition::limits(&self.file.definition));
        info!(experiment = %self.options.slug, "definition changed");
        Ok(())
    }

    /// The definition, with what the log holds.
    pub(super) async fn describe(&self) -> Result<Description, ReadError> {
        let summary = self.summary().await?;
        let (disk, dir) = (self.shared.host.disk.clone(), self.options.dir.clone());
        let bytes_on_disk = blocking(move || {
            let listed = crate::log::reader::list_segments(&*disk, &dir);
            let listed = listed.map_err(|error| io::Error::other(error.to_string()))?;
            Ok::<_, io::Error>(listed.iter().map(|segment| segment.local_len).sum())
        })
        .await?;
        let definition = self.file.definition.clone();
        let mut variant_counts: Vec<VariantCount> = Vec::new();
        for variant in &definition.variants {
            let key = variant.key.clone();
            variant_counts.push(VariantCount { key, count: 0 });
        }
        for met in summary.variants {
            match variant_counts.iter_mut().find(|known| known.key == met.key) {
                Some(known) => known.count = met.count,
                None => variant_counts.push(met),
            }
        }
        Ok(Description {
            slug: self.options.slug.clone(),
            definition,
            created_at_ms: self.file.created_at_ms,
            count: summary.count,
            variant_counts,
            bytes_on_disk,
            segment_count: summary.segment_count,
            last_entry: summary.last,
            dropped: self
                .view()
                .dropped()
                .map_or_else(Default::default, |dropped| dropped.count()),
        })
    }

    /// What the log holds, from its indexes.
    pub(super) async fn summary(&self) -> Result<LogSummary, ReadError> {
        let view = self.writer.view().clone();
        let disk = self.shared.host.disk.clone();
        blocking(move || Ok(view.summary(&*disk)?)).await
    }
}
