//! Where a command's output goes: data to stdout, words to stderr. Either may have a reader that
//! goes away, which must not end a command in the middle of its work.

use std::fmt::Display;
use std::io::{self, Write};

/// A line of data.
pub fn data(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// A line for people. Nobody need be there to read it.
pub fn words(line: impl Display) {
    let _unread = writeln!(io::stderr().lock(), "{line}");
}

/// Lines of data, until the reader has enough.
pub fn list<T: Display>(lines: impl IntoIterator<Item = T>) -> io::Result<bool> {
    for line in lines {
        match data(line) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            written => written?,
        }
    }
    Ok(true)
}
