//! `experiment.json`: what an experiment is, in its folder; and the rules of a definition.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::json_file;
use crate::fs::{Disk, read_small, replace_file};
use crate::model::{Definition, Slug, VARIANT_KEY_BYTES_MAX, VARIANTS_MAX};

/// The name of the file.
pub const DEFINITION_FILE: &str = "experiment.json";
const FILE_LEN_MAX: u64 = 4 << 20;
const TEXT_BYTES_MAX: usize = 4096;

/// What the file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionFile {
    /// The format's version.
    pub format: u32,
    /// The experiment.
    pub slug: Slug,
    /// Which life of it, 16 hexadecimal digits.
    pub incarnation: String,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub definition: Definition,
}

impl DefinitionFile {
    /// Reads the file in the experiment's folder.
    pub fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let bytes = read_small(disk, &dir.join(DEFINITION_FILE), FILE_LEN_MAX)?;
        let file: Self = json_file::decode(&bytes).map_err(invalid)?;
        file.incarnation()?;
        Ok(file)
    }

    /// Replaces the file, durably.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let bytes = json_file::encode(self).map_err(invalid)?;
        replace_file(disk, &dir.join(DEFINITION_FILE), &bytes)
    }

    /// The incarnation as a number.
    pub fn incarnation(&self) -> io::Result<u64> {
        u64::from_str_radix(&self.incarnation, 16).map_err(invalid)
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{DEFINITION_FILE}: {error}"),
    )
}

/// Says what is wrong with a definition, if anything is.
pub fn check(definition: &Definition) -> Result<(), String> {
    let variants = &definition.variants;
    if variants.is_empty() && !definition.open_variants {
        return Err("an experiment needs at least one variant, or openVariants".into());
    }
    if variants.len() > VARIANTS_MAX {
        return Err(format!("at most {VARIANTS_MAX} variants"));
    }
    for (position, variant) in variants.iter().enumerate() {
        if variant.key.is_empty() || variant.key.len() > VARIANT_KEY_BYTES_MAX {
            return Err(format!(
                "a variant's key has 1 to {VARIANT_KEY_BYTES_MAX} bytes"
            ));
        }
        let is_twice = variants
            .iter()
            .take(position)
            .any(|other| other.key == variant.key);
        if is_twice {
            return Err(format!("variant {:?} is defined twice", variant.key));
        }
        let is_weight = |weight: f64| weight.is_finite() && weight >= 0.0;
        if !variant.weight.is_none_or(is_weight) {
            return Err(format!(
                "variant {:?}: a weight is a number of 0 or more",
                variant.key
            ));
        }
    }
    if variants.iter().filter(|variant| variant.control).count() > 1 {
        return Err("at most one variant is the control".into());
    }
    let texts = [&definition.unit, &definition.description];
    if texts
        .into_iter()
        .flatten()
        .any(|text| text.len() > TEXT_BYTES_MAX)
    {
        return Err(format!(
            "unit and description have at most {TEXT_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}
