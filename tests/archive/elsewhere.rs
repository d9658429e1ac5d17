//! What is no S3 server: the same archive there, by the same commands.

use crate::azurite::Azurite;
use crate::google::Google;
use crate::read_through::{lines, wait_until_let_go};
use crate::{ENTRIES, Rig, SMALL, alternating, load, metric, send, wait_until_archived};

#[test]
fn azure_does_as_s3_does() {
    if let Some(azurite) = Azurite::start() {
        does_as_s3_does(&Rig::on(&azurite.url, &azurite.environment));
    }
}

#[test]
fn google_does_as_s3_does() {
    if let Some(google) = Google::start() {
        does_as_s3_does(&Rig::on(&google.url, &google.environment));
    }
}

/// Short segments and one that goes by parts, read by commands and by the server.
fn does_as_s3_does(rig: &Rig) {
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    wait_until_archived(&server);
    assert_eq!(metric(&server, "failures_total"), 0);
    let all = lines(&server);
    server.stop();
    let server = rig.serve(&["--segment-bytes", "20MiB", "--archive-local-bytes", "0"]);
    wait_until_let_go(&server);
    assert_eq!(lines(&server), all);
    send(&server, ENTRIES, 300, 100_000, alternating);
    wait_until_archived(&server);
    server.stop();
    let archived = rig.out(&["replay", &rig.url]);
    assert!(archived.starts_with(&all) && archived.lines().count() >= ENTRIES + 180);
    assert!(rig.run(&["verify", &rig.url]).status.success());
    let of_b = rig.out(&[
        "replay",
        &rig.url,
        "--variant",
        "B",
        "--after",
        &id_at(&all, 700),
    ]);
    assert!(of_b.lines().count() >= 50 + 90, "{}", of_b.lines().count());
}

fn id_at(lines: &str, n: usize) -> String {
    let line: serde_json::Value = serde_json::from_str(lines.lines().nth(n).unwrap()).unwrap();
    line["logId"].as_str().unwrap().to_owned()
}
