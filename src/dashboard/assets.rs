//! The script and the style of all pages. Their names hold a hash of what is in them, so browsers may
//! keep them for ever.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A file that pages name.
pub struct Asset {
    /// Its name, below `/ui/assets/`.
    pub name: String,
    /// Its media type.
    pub media_type: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// The style.
pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("assets/style.css");
    Asset::new("style", "css", "text/css; charset=utf-8", text)
});

/// The script.
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("assets/live.js");
    Asset::new("live", "js", "text/javascript; charset=utf-8", text)
});

/// The picture in a browser's tab.
pub static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("assets/icon.svg");
    Asset::new("icon", "svg", "image/svg+xml", text)
});

impl Asset {
    fn new(stem: &str, ending: &str, media_type: &'static str, text: &'static str) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        let hash: String = hash
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            name: format!("{stem}-{hash}.{ending}"),
            media_type,
            text,
        }
    }

    /// The one with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        let all: [&'static Self; 3] = [&STYLE, &SCRIPT, &ICON];
        all.into_iter().find(|asset| asset.name == name)
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/ui/assets/{}", self.name)
    }
}
