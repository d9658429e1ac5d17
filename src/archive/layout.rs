//! The names in an archive.

use object_store::path::Path;

use crate::model::Slug;

/// One life of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogName {
    /// The store.
    pub store_id: u64,
    /// The experiment.
    pub slug: Slug,
    /// Its life.
    pub incarnation: u64,
}

impl LogName {
    /// Where its objects are.
    pub fn folder(&self, prefix: &Path) -> Path {
        let parts = [
            format!("{:016x}", self.store_id),
            self.slug.to_string(),
            format!("{:016x}", self.incarnation),
        ];
        parts
            .iter()
            .fold(prefix.clone(), |path, part| path.join(part.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_its_place() {
        let name = LogName {
            store_id: 0xab,
            slug: Slug::parse("demo").unwrap(),
            incarnation: 7,
        };
        let folder = name.folder(&Path::from("some/where"));
        let expected = "some/where/00000000000000ab/demo/0000000000000007";
        assert_eq!(folder.as_ref(), expected);
    }
}
