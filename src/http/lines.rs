//! Entries as a body of lines that is made while it is sent: the next step is read when the client
//! has taken the one before, and never when it has gone.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tracing::error;

use super::error::{ApiError, Code};
use super::reply::CutShort;
use crate::entry_json::EntryWriter;
use crate::experiment::ReadError;
use crate::experiment::reading::{Met, Reader, Sink, Step};
use crate::model::Slug;

/// Lines are sent once there are this many bytes of them.
const CHUNK_BYTES: usize = 64 << 10;

/// The body. When something is lost, its last line is an error, and its end is missing.
pub struct Lines(State);

enum State {
    Reads(Pin<Box<dyn Future<Output = Result<Step<Chunk>, ReadError>> + Send>>),
    Ends,
    /// Once what was sent before could go out.
    Breaks {
        has_waited: bool,
    },
}

struct Chunk {
    text: Vec<u8>,
    writer: EntryWriter,
    slug: Slug,
    /// How many more entries are wanted.
    left: Option<usize>,
    has_lost: bool,
}

impl Lines {
    /// What `reader` reads, at most `limit` entries.
    pub fn new(reader: Reader, slug: Slug, limit: Option<usize>) -> Self {
        let chunk = Chunk {
            text: Vec::new(),
            writer: EntryWriter::default(),
            slug,
            left: limit,
            has_lost: false,
        };
        Self(State::Reads(Box::pin(reader.step(chunk))))
    }

    /// The last line, before the body breaks off: who looks at lines sees why, who doesn't sees
    /// that it isn't whole.
    fn break_with(&mut self, mut text: Vec<u8>, error: &ApiError) -> Bytes {
        self.0 = State::Breaks { has_waited: false };
        text.extend_from_slice(error.to_json().as_bytes());
        text.push(b'\n');
        text.into()
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        loop {
            let step = match &mut self.0 {
                State::Reads(step) => ready!(step.as_mut().poll(context)),
                State::Ends => return Poll::Ready(None),
                State::Breaks { has_waited: true } => return Poll::Ready(Some(Err(CutShort))),
                State::Breaks { has_waited } => {
                    // hyper lets what it holds go with the connection: it is flushed before.
                    *has_waited = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            };
            let text = match step {
                Ok(Step { reader, mut sink }) => {
                    let text = std::mem::take(&mut sink.text);
                    match reader.filter(|_| sink.left != Some(0)) {
                        Some(reader) => {
                            self.0 = State::Reads(Box::pin(reader.step(sink)));
                            text.into()
                        }
                        None if sink.has_lost => self.break_with(text, &lost()),
                        None => {
                            self.0 = State::Ends;
                            text.into()
                        }
                    }
                }
                Err(error) => {
                    error!(%error, "a stream of entries breaks off");
                    self.break_with(Vec::new(), &error.into())
                }
            };
            if !text.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
        }
    }
}

impl Sink for Chunk {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        match met {
            Met::Lost(_) => self.has_lost = true,
            Met::Entry(entry) => {
                let (id, at) = (entry.id, entry.received_at_ms);
                self.writer
                    .write_line(&mut self.text, &self.slug, id, at, entry.body);
                if let Some(left) = &mut self.left {
                    *left -= 1;
                }
            }
        }
        match self.left {
            Some(0) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0) || self.text.len() >= CHUNK_BYTES
    }
}

fn lost() -> ApiError {
    let message = "some of the selected entries are damaged; all others are given";
    ApiError::new(Code::LogDamaged, message)
}
