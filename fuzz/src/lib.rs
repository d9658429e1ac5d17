//! What the fuzz targets share.

pub mod forge;
pub mod json;

/// The store without threads on a simulated machine, and its model: the tests' own.
#[path = "../../tests/it/rig.rs"]
pub mod rig;
