//! Bodies that come as gzip or zstd, over real HTTP: what is taken, what is refused, and what it costs.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::server::{Answer, EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";
const LOGS: &str = "/experiment/demo/logs";

fn gzip(body: &[u8]) -> Vec<u8> {
    gzip_at(Compression::default(), body)
}

fn gzip_at(level: Compression, body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).unwrap()
}

/// A frame of zstd that asks for a window of 2 to the power of `window_log`.
fn zstd_with_window(window_log: u32, body: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn post(server: &Server, path: &str, codings: &[&str], body: &[u8]) -> Answer {
    let mut headers = vec![("x-api-key", server.key.as_str())];
    headers.extend(codings.iter().map(|coding| ("content-encoding", *coding)));
    let mut client = server.connect();
    client
        .send("POST", path, &headers, body)
        .expect("an answer")
}

fn count(server: &Server) -> u64 {
    let described = server.ask("GET", "/experiment/demo", "").json();
    described["count"].as_u64().unwrap()
}

fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// The first `len` bytes of a batch's lines.
fn lines(len: usize) -> Vec<u8> {
    let line = format!("{EXAMPLE}\n");
    let times = len.div_ceil(line.len());
    let mut lines = line.repeat(times).into_bytes();
    lines.truncate(len);
    lines
}

#[test]
fn what_comes_out_is_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let body = EXAMPLE.as_bytes();
    let (begin, end) = body.split_at(100);
    // An empty skippable frame.
    let skipped = vec![0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0];
    let cases = [
        ("gzip", gzip(body)),
        ("GZip", gzip(body)),
        ("x-gzip", gzip(body)),
        ("gzip", gzip_at(Compression::none(), body)),
        ("gzip", joined(&[gzip(begin), gzip(end)])),
        ("gzip", joined(&[gzip(b""), gzip(body), gzip(b"")])),
        ("zstd", zstd(body)),
        ("ZSTD", zstd(body)),
        ("zstd", joined(&[zstd(begin), zstd(end)])),
        ("zstd", joined(&[skipped.clone(), zstd(body), skipped])),
        ("zstd", zstd_with_window(23, body)),
        ("identity", body.to_vec()),
    ];
    for (coding, sent) in &cases {
        let id = post(&server, LOG, &[coding], sent).log_id();
        let entry = server.ask("GET", &format!("{LOG}/{id}"), "");
        let text = String::from_utf8(entry.body).unwrap();
        assert!(text.ends_with(&EXAMPLE[1..]), "{coding}: {text}");
    }
    let batch = lines(EXAMPLE.len() * 3 + 3);
    for (coding, sent) in [("gzip", gzip(&batch)), ("zstd", zstd(&batch))] {
        let stored = post(&server, LOGS, &[coding], &sent);
        assert_eq!(stored.json()["count"], 3, "{coding}: {stored:?}");
    }
    // One that comes out larger than what is decoded on the spot.
    let batch = lines(3 << 20);
    let (whole, _) = batch.split_at((3 << 20) / (EXAMPLE.len() + 1) * (EXAMPLE.len() + 1));
    for (coding, sent) in [("gzip", gzip(whole)), ("zstd", zstd(whole))] {
        let stored = post(&server, LOGS, &[coding], &sent);
        let expected = whole.len() / (EXAMPLE.len() + 1);
        assert_eq!(stored.json()["count"], expected, "{coding}");
    }
    // Definitions and keys may come so, too.
    let defined = gzip(br#"{"variants":["A"]}"#);
    let headers = [
        ("x-api-key", server.key.as_str()),
        ("content-encoding", "gzip"),
    ];
    let mut client = server.connect();
    let answer = client.send("PUT", "/experiment/packed", &headers, &defined);
    assert_eq!(answer.unwrap().status, 201);
}

#[test]
fn what_is_not_what_its_coding_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let body = EXAMPLE.as_bytes();
    let (gzipped, zstded) = (gzip(body), zstd(body));
    let without_end = |bytes: &[u8], len: usize| bytes[..bytes.len() - len].to_vec();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let mut cases = vec![
        ("gzip", Vec::new(), "nothing"),
        ("zstd", Vec::new(), "nothing"),
        ("gzip", body.to_vec(), "plain text"),
        ("zstd", body.to_vec(), "plain text"),
        ("gzip", zstded.clone(), "the other"),
        ("zstd", gzipped.clone(), "the other"),
        ("gzip", without_end(&gzipped, 1), "no whole trailer"),
        ("gzip", without_end(&gzipped, 8), "no trailer"),
        ("gzip", without_end(&gzipped, 20), "no end"),
        ("gzip", gzipped[..5].to_vec(), "half a head"),
        ("zstd", without_end(&zstded, 1), "no end"),
        ("zstd", zstded[..3].to_vec(), "half a magic number"),
        ("gzip", joined(&[gzipped.clone(), b"x".to_vec()]), "more"),
        ("gzip", joined(&[gzipped.clone(), vec![0; 512]]), "zeros"),
        (
            "gzip",
            joined(&[gzipped.clone(), gzipped[..12].to_vec()]),
            "half a member more",
        ),
        ("zstd", joined(&[zstded.clone(), b"x".to_vec()]), "more"),
        ("zstd", joined(&[zstded.clone(), vec![0; 512]]), "zeros"),
        (
            "zstd",
            joined(&[zstded.clone(), zstded[..9].to_vec()]),
            "half a frame more",
        ),
        (
            "gzip",
            flipped(&gzipped, gzipped.len() - 6),
            "another checksum",
        ),
        (
            "gzip",
            flipped(&gzipped, gzipped.len() - 2),
            "another length",
        ),
        ("gzip", flipped(&gzipped, 1), "another magic number"),
        // A compressor that is told the size asks for no larger window than that.
        (
            "zstd",
            zstd_with_window(24, &lines(1000)),
            "too large a window",
        ),
    ];
    for (coding, sent, what) in cases.drain(..) {
        for path in [LOG, LOGS] {
            let refused = post(&server, path, &[coding], &sent);
            let case = format!("{coding} {path}: {what}");
            let words = "is not what its content-encoding says";
            refused.assert_error(400, "body_not_decodable", words, &case);
        }
    }
    // What comes out is held to what holds of all bodies.
    let empty = post(&server, LOG, &["gzip"], &gzip(b""));
    empty.assert_error(400, "body_empty", "nothing came", "an empty member");
    let broken = post(&server, LOGS, &["zstd"], &zstd(b"{}\n"));
    broken.assert_error(400, "variant_key_missing", "line 1", "no variant");
    assert_eq!(count(&server), 0);
}

#[test]
fn other_codings_and_several_are_refused_with_those_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let body = gzip(EXAMPLE.as_bytes());
    let cases: &[&[&str]] = &[
        &["br"],
        &["deflate"],
        &["compress"],
        &[""],
        &["gzip, zstd"],
        &["gzip, gzip"],
        &["gzip, identity"],
        &["gzip", "zstd"],
        &["identity", "gzip"],
        &["gzip;q=1"],
    ];
    for codings in cases {
        let refused = post(&server, LOG, codings, &body);
        let words = "as it is, or in one of gzip and zstd";
        let case = codings.join(" and ");
        refused.assert_error(415, "unsupported_content_encoding", words, &case);
        assert_eq!(refused.header("accept-encoding"), Some("gzip, zstd"));
    }
    assert_eq!(count(&server), 0);
}

#[test]
fn the_limit_is_on_what_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let len_max: usize = 600_000;
    let args = ["--max-body", "600000", "--max-batch", "600000"];
    let server = Server::start(&dir.path().join("s"), &args);
    let entry = |len: usize| {
        let (begin, end) = (r#"{"variantKey":"A","input":{"x":""#, r#""}}"#);
        let fill = "x".repeat(len - begin.len() - end.len());
        format!("{begin}{fill}{end}").into_bytes()
    };
    let (fits, over) = (entry(len_max), entry(len_max + 1));
    for path in [LOG, LOGS] {
        for (coding, encode) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
            let taken = post(&server, path, &[coding], &encode(&fits));
            assert_eq!(taken.status, 200, "{coding} {path}: {taken:?}");
            let refused = post(&server, path, &[coding], &encode(&over));
            let words = "more than 600000 bytes";
            refused.assert_error(413, "body_too_large", words, coding);
        }
        // What coding made longer still fits.
        let stored = gzip_at(Compression::none(), &fits);
        assert!(stored.len() > len_max);
        assert_eq!(post(&server, path, &["gzip"], &stored).status, 200);
        // What comes out of it would be short; it isn't read to its end.
        let padded = joined(&vec![gzip(b""); len_max / 16]);
        let refused = post(&server, path, &["gzip"], &padded);
        refused.assert_error(413, "body_too_large", "more than", "many empty members");
    }
    assert_eq!(count(&server), 6);
}

/// What a process has had in memory at most, in KiB.
fn peak_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.unwrap().parse().unwrap()
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--max-batch", "4194304"];
    let server = Server::start(&dir.path().join("s"), &args);
    let spaces = vec![b' '; 1 << 30];
    let bombs = [("gzip", gzip(&spaces)), ("zstd", zstd(&spaces))];
    drop(spaces);
    post(&server, LOG, &["gzip"], &gzip(EXAMPLE.as_bytes())).log_id();
    let before = peak_kib(&server);
    for (coding, bomb) in &bombs {
        assert!(bomb.len() < 2 << 20, "{coding}: {}", bomb.len());
        for path in [LOG, LOGS, LOGS] {
            let refused = post(&server, path, &[coding], bomb);
            refused.assert_error(413, "body_too_large", "more than", coding);
        }
    }
    let grown = peak_kib(&server) - before;
    // The limit and its half while it doubles, for each of the 16 threads that may decode: the
    // allocator keeps it for the next time. A bomb that went off would cost 1 GiB.
    assert!(grown < 96 << 10, "{grown} KiB");
    assert_eq!(count(&server), 1);
}

#[test]
fn what_comes_out_is_covered_by_the_budget_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--inflight-bytes", "2000000"];
    let server = Server::start(&dir.path().join("s"), &args);
    let large = lines(4_000_000);
    for (coding, sent) in [("gzip", gzip(&large)), ("zstd", zstd(&large))] {
        assert!(sent.len() < 100_000);
        // If any of it were kept, so many would leave nothing.
        for _ in 0..20 {
            let refused = post(&server, LOGS, &[coding], &sent);
            refused.assert_error(503, "overloaded", "nothing was stored", coding);
            assert_eq!(refused.header("retry-after"), Some("1"));
        }
        for _ in 0..20 {
            let broken = &sent[..sent.len() - 3];
            let refused = post(&server, LOGS, &[coding], broken);
            assert!(matches!(refused.status, 400 | 503), "{refused:?}");
        }
        // The bytes of a request come back a moment after its answer.
        while post(&server, LOGS, &[], &lines(1_000_000)).status == 503 {}
    }
    let stored = 2 * (1_000_000 / (EXAMPLE.len() + 1));
    assert_eq!(count(&server), stored as u64, "plain ones alone");
}
