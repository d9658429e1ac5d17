//! Texts as the values of parameters in an address.

use std::fmt::Write;

/// A text as a value: what is no letter, digit or one of `-._~` is escaped.
pub fn encoded(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                value.push(char::from(byte));
            }
            other => {
                let _infallible = write!(value, "%{other:02X}");
            }
        }
    }
    value
}
