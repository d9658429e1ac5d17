//! `experiment.json`: what an experiment is, in its folder; and the rules of a definition.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::folder::STORE_FORMAT;
use crate::fs::{Disk, read_small, replace_file};
use crate::json_file;
use crate::log::expiry::Limits;
use crate::model::{Definition, Slug, VARIANT_KEY_BYTES_MAX};

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
        if file.format > STORE_FORMAT {
            let what = format!("format {} is newer than this program", file.format);
            return Err(invalid(what));
        }
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

/// Says what is wrong with a definition that may have so many variants, if anything is.
pub fn check(definition: &Definition, variants_max: usize) -> Result<(), StoreError> {
    // First: what follows compares each variant with all others.
    if definition.variants.len() > variants_max {
        return Err(StoreError::TooManyVariants(variants_max));
    }
    check_parts(definition).map_err(StoreError::BadDefinition)
}

fn check_parts(definition: &Definition) -> Result<(), String> {
    let variants = &definition.variants;
    if variants.is_empty() && !definition.open_variants {
        return Err("an experiment needs at least one variant, or openVariants".into());
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
    if let Some(retention) = &definition.retention {
        let age = retention.max_age.as_deref();
        if age.is_some_and(|age| age_ms(age).is_none()) {
            return Err("retention: maxAge is a number and s, m, h, d or w, such as 90d".into());
        }
        if retention.max_bytes == Some(0) {
            return Err("retention: maxBytes is 1 or more".into());
        }
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

/// How much of its log an experiment keeps; `None` for all.
pub fn limits(definition: &Definition) -> Option<Limits> {
    let retention = definition.retention.as_ref()?;
    let limits = Limits {
        age_ms_max: retention.max_age.as_deref().and_then(age_ms),
        bytes_max: retention.max_bytes,
        number_end: None,
    };
    (limits != Limits::default()).then_some(limits)
}

/// The milliseconds of a positive whole number and a unit, without a sign, a space or a fraction.
fn age_ms(text: &str) -> Option<u64> {
    let seconds = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        Some(b'w') => 604_800,
        _ => return None,
    };
    let digits = text.get(..text.len() - 1).unwrap_or_default();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    // What a clock in milliseconds can still count.
    let count = digits.parse::<u64>().unwrap_or(0);
    let age_ms = count.checked_mul(seconds * 1_000)?;
    (is_number && age_ms > 0).then_some(age_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimMachine;
    use crate::model::Retention;

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        let check = |age: &str| {
            let retention = Retention {
                max_age: Some(age.into()),
                max_bytes: None,
            };
            check_parts(&Definition {
                open_variants: true,
                retention: Some(retention),
                ..Definition::default()
            })
        };
        for age in ["90d", "12h", "30m", "45s", "2w", "1s", "007d"] {
            assert_eq!(check(age), Ok(()), "{age}");
        }
        for age in [
            "",
            "d",
            "90",
            "0d",
            "-1d",
            "+1d",
            "1.5h",
            "1 d",
            " 1d",
            "1d ",
            "1D",
            "1ms",
            "1d12h",
            "P90D",
            "forever",
            "\u{661}d",
            "99999999999999999999d",
            "18446744073709551615w",
        ] {
            assert!(check(age).is_err(), "{age}");
        }
    }

    #[test]
    fn a_later_format_is_refused() {
        let host = SimMachine::new(1, 512).host();
        let mut file = DefinitionFile {
            format: STORE_FORMAT,
            slug: Slug::parse("demo").unwrap(),
            incarnation: "00000000000000ff".into(),
            created_at_ms: 0,
            definition: Definition::default(),
        };
        file.write(&*host.disk, Path::new("/")).unwrap();
        let read = DefinitionFile::read(&*host.disk, Path::new("/")).unwrap();
        assert_eq!(read.incarnation().unwrap(), 255);
        file.format += 1;
        file.write(&*host.disk, Path::new("/")).unwrap();
        let error = DefinitionFile::read(&*host.disk, Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }
}
