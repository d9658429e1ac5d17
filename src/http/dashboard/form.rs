//! Forms, as browsers send them: names and values, up to a limit.

use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;

use crate::http::body;
use crate::http::coding::Coding;
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::limits::Limits;
use crate::http::query::decoded;
use crate::http::server::AppState;

/// What the definition of 1,000 variants takes at most.
const FORM_BYTES_MAX: usize = 512 << 10;
const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// Names and values, in their order.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Reads the form that a request brings.
    pub async fn read(
        headers: &HeaderMap,
        body: Incoming,
        state: &AppState,
        limits: &Limits,
    ) -> ApiResult<Self> {
        let sent = headers.get(CONTENT_TYPE);
        let sent = sent
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = sent.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case(MEDIA_TYPE) {
            let message = format!("a form is sent as {MEDIA_TYPE}");
            return Err(ApiError::new(Code::UnsupportedMediaType, message));
        }
        let len_max = FORM_BYTES_MAX.min(limits.body_bytes_max);
        let (bytes, _permit) = body::read(body, Coding::Identity, len_max, state, limits).await?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| ApiError::new(Code::BodyNotUtf8, "the form is not UTF-8"))?;
        Self::parse(text)
    }

    /// A form with these fields.
    #[cfg(test)]
    pub fn of(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter();
        Self(
            fields
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    fn parse(text: &str) -> ApiResult<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let read = |text| decoded("a field of the form", text);
            Ok((read(name)?.into_owned(), read(value)?.into_owned()))
        });
        pairs.collect::<ApiResult<_>>().map(Self)
    }

    /// The first value of a field, without what surrounds it; empty when it isn't there.
    pub fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default().trim()
    }

    /// All values of a field.
    pub fn all<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f str> {
        let found = self.0.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let form = Form::parse("key=A&key=b+c%26&slug=+x+&empty=&flag").unwrap();
        assert_eq!(form.all("key").collect::<Vec<_>>(), ["A", "b c&"]);
        assert_eq!(
            [form.get("slug"), form.get("empty"), form.get("none")],
            ["x", "", ""]
        );
        assert!(Form::parse("a=%zz").is_err());
    }
}
