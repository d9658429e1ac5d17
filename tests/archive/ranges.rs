//! Of an archive no more is read than what is asked for takes: bytes are counted on their way.

use std::fs;

use serde_json::Value;

use crate::proxy::{Mode, Proxy};
use crate::s3::S3;
use crate::server::arg;
use crate::{Rig, send, wait_until_archived};

/// An archive of some segments. Variant A is everywhere in it but for three entries in one place.
struct Archive {
    rig: Rig,
    proxy: Proxy,
    _s3: S3,
}

impl Archive {
    fn on_s3() -> Option<Self> {
        let s3 = S3::start()?;
        let proxy = Proxy::start(s3.address, Mode::Pass);
        let rig = Rig::on_s3(&proxy);
        let rare = |n: usize| if (3000..3003).contains(&n) { 'B' } else { 'A' };
        let server = rig.serve(&["--segment-bytes", "1MiB"]);
        send(&server, 0, 6000, 1000, rare);
        wait_until_archived(&server);
        drop(server);
        Some(Self {
            rig,
            proxy,
            _s3: s3,
        })
    }

    /// What `asks` gives, and how many bytes it read from the archive.
    fn counted<T>(&self, asks: impl FnOnce() -> T) -> (T, u64) {
        let before = self.proxy.down();
        let given = asks();
        (given, self.proxy.down() - before)
    }

    /// What a replay gives, as it is from the store but for its last segment; and what was read for it.
    fn replayed(&self, args: &[&str]) -> (String, u64) {
        let replay = |from: &str| self.rig.out(&[&["replay", from], args].concat());
        let (archived, read) = self.counted(|| replay(&self.rig.url));
        let local = replay(arg(&self.rig.store()));
        assert!(
            local.starts_with(&archived) && !archived.is_empty(),
            "{args:?}"
        );
        (archived, read)
    }
}

#[test]
fn a_part_is_read_by_the_ranges_that_it_takes() {
    let Some(archive) = Archive::on_s3() else {
        return;
    };
    let (all, whole) = archive.replayed(&[]);
    assert!(whole > 5_000_000, "{whole} bytes for all");
    let (of_variant, read) = archive.replayed(&["--variant", "B"]);
    assert_eq!(of_variant.lines().count(), 3);
    assert!(read < whole / 4, "{read} of {whole} bytes for a variant");
    let lines: Vec<Value> = all
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at = |n: usize| lines[n]["receivedAt"].as_str().unwrap();
    let (in_time, read) = archive.replayed(&["--since", at(3000), "--until", at(3200)]);
    assert!(in_time.lines().count() < 1500, "a part");
    assert!(read < whole / 2, "{read} of {whole} bytes for a time");
    let last = lines[lines.len() - 50]["logId"].as_str().unwrap();
    let (behind, read) = archive.replayed(&["--after", last]);
    assert_eq!(behind.lines().count(), 49);
    assert!(read < whole / 4, "{read} of {whole} bytes behind an id");
}

#[test]
fn a_report_reads_the_ends_of_segments_and_an_export_what_it_holds() {
    let Some(archive) = Archive::on_s3() else {
        return;
    };
    let rig = &archive.rig;
    let (all, whole) = archive.replayed(&[]);
    let (report, read) = archive.counted(|| rig.out(&["report", &rig.url, "--format", "json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    let variants = report["variants"].as_array().unwrap();
    let counts: Vec<_> = variants.iter().map(|one| one["count"].as_u64()).collect();
    let of_a = all.lines().count() as u64 - 3;
    assert_eq!(counts, [Some(of_a), Some(3)], "{report}");
    assert!(read < whole / 10, "{read} of {whole} bytes for a report");

    let exported = |from: &str| {
        let file = rig.dir.path().join("exported.parquet");
        let how = ["--variant", "B", "--format", "parquet", "--output"];
        rig.out(&[&["replay", from], &how[..], &[arg(&file)]].concat());
        fs::read(&file).unwrap()
    };
    let (archived, read) = archive.counted(|| exported(&rig.url));
    assert_eq!(archived, exported(arg(&rig.store())));
    assert!(read < whole / 4, "{read} of {whole} bytes for an export");
}
