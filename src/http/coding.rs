//! Content codings: what `content-encoding` says that a body is, and the body that comes out.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;

use super::error::{ApiError, ApiResult, Code};
use crate::experiment::BytePermit;

/// What we take: for the header `accept-encoding` of a refusal.
pub const TAKEN: &str = "gzip, zstd";

/// By how much a body that comes out grows at first; then it doubles.
const STEP_BYTES: usize = 16 << 10;
/// A frame of zstd may ask for a window of 2 to the power of this: 8 MiB, as RFC 9659 has it for HTTP.
const WINDOW_LOG_MAX: u32 = 23;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// It isn't.
    Identity,
    /// By gzip; of several members the bodies follow each other.
    Gzip,
    /// By zstd; of several frames the bodies follow each other.
    Zstd,
}

impl Coding {
    /// The one that the headers name. More than one isn't taken: nobody gains by coding twice.
    pub fn of(headers: &HeaderMap) -> ApiResult<Self> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else {
            return Ok(Self::Identity);
        };
        let name = value.as_bytes().trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let coding = if is("gzip") || is("x-gzip") {
            Self::Gzip
        } else if is("zstd") {
            Self::Zstd
        } else if is("identity") {
            Self::Identity
        } else {
            return Err(unsupported());
        };
        match values.next() {
            None => Ok(coding),
            Some(_) => Err(unsupported()),
        }
    }

    /// How long a body may be as it is sent, so that `len_max` bytes can come out: what can't be
    /// made smaller becomes a little longer.
    pub fn sent_len_max(self, len_max: usize) -> usize {
        match self {
            Self::Identity => len_max,
            Self::Gzip | Self::Zstd => len_max + len_max / 64 + 1024,
        }
    }

    /// What comes out of `sent`, at most `len_max` bytes. The permit grows with it, so that nothing
    /// is held that isn't covered. Blocks for as long as that takes.
    pub fn decode(
        self,
        sent: &Bytes,
        len_max: usize,
        permit: &mut BytePermit,
    ) -> Result<Bytes, Undecoded> {
        // No member and no frame at all: to a decoder that is a body with nothing in it.
        if sent.is_empty() {
            return Err(Undecoded::Broken);
        }
        match self {
            Self::Identity => Ok(sent.clone()),
            Self::Gzip => collect(MultiGzDecoder::new(&**sent), len_max, permit),
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&**sent);
                let mut decoder = decoder.map_err(|_| Undecoded::Broken)?;
                let bounded = decoder.window_log_max(WINDOW_LOG_MAX);
                bounded.map_err(|_| Undecoded::Broken)?;
                collect(decoder, len_max, permit)
            }
        }
    }

    /// What is told of a body that isn't what it should be.
    pub fn broken(self) -> ApiError {
        let message = match self {
            Self::Zstd => {
                "the body is not what its content-encoding says: whole frames of zstd, with windows \
                 of at most 8 MiB"
            }
            Self::Gzip | Self::Identity => {
                "the body is not what its content-encoding says: whole members of gzip"
            }
        };
        ApiError::new(Code::BodyNotDecodable, message)
    }
}

/// Why nothing comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecoded {
    /// More than that does.
    TooLong,
    /// Too much is in flight.
    OverBudget,
    /// It isn't what its coding says.
    Broken,
}

fn collect(
    mut decoder: impl Read,
    len_max: usize,
    permit: &mut BytePermit,
) -> Result<Bytes, Undecoded> {
    let mut body = Vec::new();
    let mut len = 0;
    loop {
        if len == body.len() {
            // One byte more than the limit shows that it is passed.
            let step = STEP_BYTES.max(len).min(len_max + 1 - len);
            let grown = permit.try_grow(step);
            grown.map_err(|_| Undecoded::OverBudget)?;
            body.resize(len + step, 0);
        }
        let room = body.get_mut(len..).unwrap_or_default();
        match decoder.read(room) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(_) => return Err(Undecoded::Broken),
        }
        if len > len_max {
            return Err(Undecoded::TooLong);
        }
    }
    permit.shrink(body.len() - len);
    body.truncate(len);
    body.shrink_to_fit();
    Ok(body.into())
}

fn unsupported() -> ApiError {
    let message = "this content-encoding is not supported: send the body as it is, or in one of gzip \
        and zstd";
    ApiError::new(Code::UnsupportedContentEncoding, message)
}
