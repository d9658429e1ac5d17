//! A body that is made while it is sent: the next piece when the one before was taken, and none when
//! the client has gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::reply::CutShort;

/// What makes pieces of a body.
pub trait Pieces: Send + Sized + 'static {
    /// The next piece, and what makes those behind it; `None` at the end.
    fn next(self) -> impl Future<Output = Next<Self>> + Send;
}

/// What comes next, unless the rest can't be had.
pub type Next<P> = Result<Option<(Bytes, P)>, CutShort>;

/// The body.
pub struct PieceByPiece<P> {
    next: Option<Pin<Box<dyn Future<Output = Next<P>> + Send>>>,
    /// How much is still to come, if that is known.
    len: Option<u64>,
}

impl<P: Pieces> PieceByPiece<P> {
    /// What `pieces` makes, `len` bytes if that is known.
    pub fn new(pieces: P, len: Option<u64>) -> Self {
        let next = Some(Box::pin(pieces.next()) as Pin<Box<_>>);
        Self { next, len }
    }
}

impl<P: Pieces> hyper::body::Body for PieceByPiece<P> {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let made = ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(match made {
            Ok(Some((bytes, pieces))) => {
                self.next = Some(Box::pin(pieces.next()));
                if let Some(len) = &mut self.len {
                    *len = len.saturating_sub(bytes.len() as u64);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            Err(cut) => Some(Err(cut)),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.len
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
