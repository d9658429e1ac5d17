//! A footer that is taken says nothing that leads out of its file, and is found again when it is
//! written anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trialog::log::footer::{Footer, footer_head, trailer_frames_end};
use trialog_fuzz::forge;

const SALT: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut forged = bytes.to_vec();
    forge::footer(&mut forged, SALT);
    check(&forged);
});

fn check(bytes: &[u8]) {
    let _any = footer_head(bytes, SALT);
    let by_trailer = trailer_frames_end(bytes, SALT);
    let Some(footer) = Footer::read(bytes, SALT) else {
        return;
    };
    assert_eq!(by_trailer, Some(footer.frames_end));
    assert!(footer.frames_end <= footer.footer_start);
    assert!(footer.footer_start < bytes.len() as u64);
    assert!(footer.blocks().len() <= bytes.len());
    assert_eq!(
        footer.summary.ids().is_some(),
        footer.summary.entry_count > 0
    );
    for (key, _, positions) in footer.variants() {
        assert!(key.len() <= bytes.len());
        assert!(positions.count() <= bytes.len());
    }
}
