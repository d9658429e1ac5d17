//! What is wrong with a body, and where: by byte while parsing, by line and column for people.

use std::borrow::Cow;

use crate::http::error::{ApiError, Code};

/// Why a body is refused.
///
/// The message holds names of ours and positions, and of the client's text at most the beginning
/// of a doubled key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BodyError {
    /// The stable word for it.
    pub code: Code,
    /// Words for people, with line and column.
    pub message: String,
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        Self::new(error.code, error.message)
    }
}

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: usize,
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Fault {
    pub fn new(at: usize, code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { at, code, message }
    }

    /// The same fault in a text in which this one begins at `offset`.
    pub fn shifted(mut self, offset: usize) -> Self {
        self.at += offset;
        self
    }

    /// With line and column in `text`, and the place of the entry in its batch before it.
    pub fn locate(self, text: &[u8], place: Option<&str>) -> BodyError {
        let (line, column) = position(text, self.at);
        let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
        BodyError {
            code: self.code,
            message: format!("{place}{} (line {line}, column {column})", self.message),
        }
    }
}

/// What serde_json found wrong with `text`, without its own way of naming the place.
pub(super) fn syntax(text: &str, code: Code, error: &serde_json::Error) -> Fault {
    let line_start = nth_line_start(text.as_bytes(), error.line());
    let at = (line_start + error.column().saturating_sub(1)).min(text.len());
    let said = error.to_string();
    let words = said.split(" at line ").next().unwrap_or_default();
    Fault::new(at, code, words.to_owned())
}

/// Line and column, both from 1; a column is a character.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let in_line = before.get(line_start..).unwrap_or_default();
    // Bytes that continue a character don't begin a column.
    let column = in_line.iter().filter(|b| **b & 0xC0 != 0x80).count() + 1;
    (line, column)
}

fn nth_line_start(text: &[u8], line: usize) -> usize {
    let Some(newlines) = line.checked_sub(2) else {
        return 0;
    };
    let mut breaks = text.iter().enumerate().filter(|(_, b)| **b == b'\n');
    breaks.nth(newlines).map_or(text.len(), |(i, _)| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters() {
        let text = "{\n\"ä\": x}".as_bytes();
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, 8), (2, 6));
        assert_eq!(position(text, 99), (2, 8));
    }

    #[test]
    fn a_syntax_error_has_its_place_once() {
        let text = "{\n\"a\": x}";
        let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
        let error = syntax(text, Code::JsonSyntax, &error).locate(text.as_bytes(), None);
        assert_eq!(error.message, "expected value (line 2, column 6)");
    }
}
