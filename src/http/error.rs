//! What can go wrong with a request: the one table of codes and statuses, and how an error looks.

use std::borrow::Cow;
use std::time::Duration;

use hyper::header::{ACCEPT_ENCODING, ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use super::coding;
use super::metrics::Limit;
use super::reply::{self, Body};

/// An error as the client sees it, and what only the operator sees.
#[derive(Debug)]
pub struct ApiError {
    /// Which error it is; its status follows from it.
    pub code: Code,
    /// Words for people. Never a path, an internal name or a piece of a client's entry.
    pub message: Cow<'static, str>,
    /// For the server's log only.
    pub detail: Option<String>,
    /// The limit that was met, where the code doesn't say it.
    pub limit: Option<Limit>,
    allow: Option<&'static str>,
    wait: Option<Duration>,
}

/// An [`ApiError`] or what the handler answers.
pub type ApiResult<T> = Result<T, ApiError>;

macro_rules! codes {
    ($($name:ident $status:ident $word:literal,)*) => {
        /// A stable word for each error. Clients match on it, so none is ever renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = concat!("`", $word, "`")] $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The word that clients see.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// The status that goes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    // The body of an entry.
    BodyEmpty BAD_REQUEST "body_empty",
    BodyNotUtf8 BAD_REQUEST "body_not_utf8",
    BodyBom BAD_REQUEST "body_bom",
    BodyNotDecodable BAD_REQUEST "body_not_decodable",
    BodyIncomplete BAD_REQUEST "body_incomplete",
    AmbiguousLength BAD_REQUEST "ambiguous_length",
    JsonSyntax BAD_REQUEST "json_syntax",
    JsonTooDeep BAD_REQUEST "json_too_deep",
    JsonLoneSurrogate BAD_REQUEST "json_lone_surrogate",
    JsonTrailing BAD_REQUEST "json_trailing",
    NotAnObject BAD_REQUEST "not_an_object",
    NotAnArray BAD_REQUEST "not_an_array",
    DuplicateField BAD_REQUEST "duplicate_field",
    ReservedField BAD_REQUEST "reserved_field",
    VariantKeyMissing BAD_REQUEST "variant_key_missing",
    VariantKeyType BAD_REQUEST "variant_key_type",
    VariantKeyEmpty BAD_REQUEST "variant_key_empty",
    VariantKeyTooLong BAD_REQUEST "variant_key_too_long",
    FieldType BAD_REQUEST "field_type",
    BatchEmpty BAD_REQUEST "batch_empty",
    UnknownVariant BAD_REQUEST "unknown_variant",
    TooManyVariants BAD_REQUEST "too_many_variants",
    // Everything else that a client can get wrong.
    MalformedHead BAD_REQUEST "malformed_head",
    BadSlug BAD_REQUEST "bad_slug",
    BadDefinition BAD_REQUEST "bad_definition",
    BadKeyRequest BAD_REQUEST "bad_key_request",
    BadIdempotencyKey BAD_REQUEST "bad_idempotency_key",
    BadParameter BAD_REQUEST "bad_parameter",
    UnknownParameter BAD_REQUEST "unknown_parameter",
    ConfirmMissing BAD_REQUEST "confirm_missing",
    ApiKeyMissing UNAUTHORIZED "api_key_missing",
    ApiKeyInvalid UNAUTHORIZED "api_key_invalid",
    ScopeMissing FORBIDDEN "scope_missing",
    ExperimentForbidden FORBIDDEN "experiment_forbidden",
    KeyRestricted FORBIDDEN "key_restricted",
    ForeignOrigin FORBIDDEN "foreign_origin",
    NotFound NOT_FOUND "not_found",
    ExperimentNotFound NOT_FOUND "experiment_not_found",
    LogNotFound NOT_FOUND "log_not_found",
    KeyNotFound NOT_FOUND "key_not_found",
    SegmentNotFound NOT_FOUND "segment_not_found",
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed",
    BodyTimeout REQUEST_TIMEOUT "body_timeout",
    VariantInUse CONFLICT "variant_in_use",
    IdempotencyConflict CONFLICT "idempotency_conflict",
    LastAdminKey CONFLICT "last_admin_key",
    TooManyKeys CONFLICT "too_many_keys",
    TooManyExperiments CONFLICT "too_many_experiments",
    SegmentNotSealed CONFLICT "segment_not_sealed",
    BodyTooLarge PAYLOAD_TOO_LARGE "body_too_large",
    UrlTooLong URI_TOO_LONG "url_too_long",
    BatchTooLong PAYLOAD_TOO_LARGE "batch_too_long",
    RangeNotSatisfiable RANGE_NOT_SATISFIABLE "range_not_satisfiable",
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type",
    UnsupportedContentEncoding UNSUPPORTED_MEDIA_TYPE "unsupported_content_encoding",
    HeadersTooLarge REQUEST_HEADER_FIELDS_TOO_LARGE "headers_too_large",
    // Too much of what is right, or wrong, by itself.
    RateLimited TOO_MANY_REQUESTS "rate_limited",
    TooManyFailures TOO_MANY_REQUESTS "too_many_failures",
    // Ours.
    AppendFailed INTERNAL_SERVER_ERROR "append_failed",
    LogDamaged INTERNAL_SERVER_ERROR "log_damaged",
    Internal INTERNAL_SERVER_ERROR "internal",
    ArchiveUnavailable SERVICE_UNAVAILABLE "archive_unavailable",
    Overloaded SERVICE_UNAVAILABLE "overloaded",
    StorageFailed SERVICE_UNAVAILABLE "storage_failed",
    JournalUnavailable SERVICE_UNAVAILABLE "journal_unavailable",
    ShuttingDown SERVICE_UNAVAILABLE "shutting_down",
    StorageFull INSUFFICIENT_STORAGE "storage_full",
}

impl ApiError {
    /// An error with words for the client.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            limit: None,
            allow: None,
            wait: None,
        }
    }

    /// Something that should not have happened; `detail` goes to the server's log alone.
    pub fn internal(detail: impl ToString) -> Self {
        Self::new(Code::Internal, "an unexpected error").with_detail(detail)
    }

    /// A known path with another method; `allow` lists those that it has.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut error = Self::new(
            Code::MethodNotAllowed,
            format!("this path takes {allow} only"),
        );
        error.allow = Some(allow);
        error
    }

    /// Too much is in flight: says which limit was met.
    pub fn overloaded(limit: Limit, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Overloaded, message).with_limit(limit)
    }

    /// Something that may be asked again after `wait`, and not before.
    pub fn too_soon(code: Code, wait: Duration, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(code, message);
        error.wait = Some(wait);
        error
    }

    /// Adds what the server's log should say.
    pub fn with_detail(mut self, detail: impl ToString) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// Says which limit was met, for the metrics.
    pub fn with_limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What the client sees.
    pub fn to_json(&self) -> String {
        let message = serde_json::Value::from(&*self.message);
        let code = self.code.as_str();
        format!(r#"{{"success":false,"error":{{"code":"{code}","message":{message}}}}}"#)
    }

    /// The error as a response.
    pub fn into_response(self) -> Response<Body> {
        let mut response = reply::json(self.code.status(), self.to_json());
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(wait) = self.wait {
            // Whole seconds, rounded up: who keeps to it isn't refused again.
            let seconds = u64::try_from(wait.as_nanos().div_ceil(1_000_000_000));
            headers.insert(RETRY_AFTER, seconds.unwrap_or(u64::MAX).max(1).into());
        }
        match self.code {
            Code::Overloaded | Code::JournalUnavailable | Code::ShuttingDown => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Code::ApiKeyMissing | Code::ApiKeyInvalid => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("ApiKey"));
            }
            Code::UnsupportedContentEncoding => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding::TAKEN));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_are_unique_and_snake_case() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for word in words {
            assert!(
                word.bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8')
            );
        }
    }

    #[test]
    fn every_code_is_an_error() {
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn headers_follow_the_code() {
        let response = ApiError::method_not_allowed("GET, HEAD").into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        let response = ApiError::new(Code::Overloaded, "later").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
