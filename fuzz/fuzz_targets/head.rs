//! Any bytes of a connection, read in any pieces: a head that the parser under hyper takes and that
//! has both a length and a coding is never missed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trialog::http::framing::Lines;

const HEADERS_MAX: usize = 100;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece_len, bytes) = input;
    let Some((head_len, has_both)) = first_head(bytes) else {
        // Whatever it is, it must not depend on how it is cut.
        let whole = Lines::default().have_both(bytes);
        assert_eq!(is_met(bytes, piece_len), whole);
        return;
    };
    let head = &bytes[..head_len];
    assert_eq!(
        is_met(head, piece_len),
        has_both,
        "{:?}",
        String::from_utf8_lossy(head)
    );
    assert_eq!(is_met(bytes, piece_len), Lines::default().have_both(bytes));

    // Behind another request whose body is whatever it is, it is seen, too.
    let mut second = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", bytes.len());
    second.push_str(&String::from_utf8_lossy(bytes));
    let mut second = second.into_bytes();
    second.extend_from_slice(head);
    assert!(!has_both || is_met(&second, piece_len));
});

/// How long the first head is, and whether it has both, as hyper's parser says.
fn first_head(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = request.parse(bytes).ok()? else {
        return None;
    };
    let has = |name: &str| {
        request
            .headers
            .iter()
            .any(|h| h.name.eq_ignore_ascii_case(name))
    };
    Some((len, has("content-length") && has("transfer-encoding")))
}

fn is_met(bytes: &[u8], piece_len: u8) -> bool {
    let mut lines = Lines::default();
    let mut is_met = false;
    for piece in bytes.chunks(usize::from(piece_len).max(1)) {
        is_met |= lines.have_both(piece);
    }
    is_met
}
