//! What the fuzz targets share.

pub mod forge;
pub mod json;

// The store without threads on a simulated machine, and its model: the tests' own.
#[path = "../../tests/it/rig.rs"]
pub mod rig;

#[path = "../../tests/it/lies.rs"]
pub mod lies;
#[path = "../../tests/it/misopen.rs"]
pub mod misopen;
#[path = "../../tests/it/model.rs"]
pub mod model;
#[path = "../../tests/it/scene.rs"]
pub mod scene;
