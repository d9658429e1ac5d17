//! Requests that another site has a browser send are refused. The cookie's `SameSite=Strict` keeps such
//! ones without a session; this holds beside it, for who signs in, too.

use hyper::Request;
use hyper::header::{HOST, HeaderName, HeaderValue, ORIGIN};

use crate::http::error::{ApiError, ApiResult, Code};

/// Says how the page that sends a request is related to us.
pub const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request that changes something comes from a page of ours: browsers say so in
/// `sec-fetch-site`, or at least where it comes from, in `origin`.
pub fn check_origin<B>(request: &Request<B>) -> ApiResult<()> {
    let headers = request.headers();
    let is_ours = match headers.get(FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => {
            let origin = headers.get(ORIGIN).and_then(authority_of);
            origin.is_some() && origin == host_of(request)
        }
    };
    match is_ours {
        true => Ok(()),
        false => {
            let message = "this was not sent by a page of this server";
            Err(ApiError::new(Code::ForeignOrigin, message))
        }
    }
}

/// What the server is called by its client.
pub fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = || request.headers().get(HOST)?.to_str().ok();
    authority.or_else(host)
}

fn authority_of(origin: &HeaderValue) -> Option<&str> {
    let (_, authority) = origin.to_str().ok()?.split_once("://")?;
    Some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_change_something() {
        for (site, origin, is_ours) in [
            ("same-origin", "", true),
            ("same-origin", "http://h:1", true),
            ("cross-site", "http://h:1", false),
            ("same-site", "", false),
            ("none", "", false),
            ("", "http://h:1", true),
            ("", "https://h:1", true),
            ("", "http://h", false),
            ("", "http://evil", false),
            ("", "null", false),
            ("", "", false),
        ] {
            let mut request = Request::builder().header("host", "h:1");
            for (name, value) in [("sec-fetch-site", site), ("origin", origin)] {
                if !value.is_empty() {
                    request = request.header(name, value);
                }
            }
            let checked = check_origin(&request.body(()).unwrap());
            assert_eq!(checked.is_ok(), is_ours, "{site} {origin}");
        }
    }
}
