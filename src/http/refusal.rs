//! What the layers below refuse, as errors of the API.

use std::time::Duration;

use super::error::{ApiError, Code};
use super::metrics::Limit;
use crate::auth::{AuthError, Denied, KeyringError};
use crate::experiment::{AppendError, OverBudget, ReadError, StoreError};
#[cfg(feature = "nats")]
use crate::replica::ReplicaError;

/// So long who was refused for the archive's sake waits.
const ARCHIVE_WAIT: Duration = Duration::from_secs(10);

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let code = match &error {
            AppendError::UnknownExperiment => return unknown_experiment(),
            AppendError::UnknownVariant { defined, .. } => return unknown_variant(defined),
            AppendError::TooManyVariants { .. } => {
                let refused = Self::new(Code::TooManyVariants, error.to_string());
                return refused.with_limit(Limit::Variants);
            }
            AppendError::KeyConflict { .. } => Code::IdempotencyConflict,
            AppendError::Overloaded => return overloaded(Limit::Machine),
            AppendError::MailboxFull => return overloaded(Limit::Mailbox),
            AppendError::StorageFull => return storage_full(),
            AppendError::Failed => {
                return Self::new(
                    Code::AppendFailed,
                    "the entry could not be written to stable storage; it may or may not be there",
                );
            }
            AppendError::StorageFailed => Code::StorageFailed,
            AppendError::ShuttingDown => return shutting_down(),
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownExperiment => unknown_experiment(),
            ReadError::Overloaded => overloaded(Limit::Machine),
            ReadError::ShuttingDown => shutting_down(),
            // What is damaged, and where, names files: that is for the operator.
            ReadError::Damaged(what) => {
                Self::new(Code::LogDamaged, "the log is damaged at this place").with_detail(what)
            }
            ReadError::ArchiveUnavailable(why) => {
                let message = "these entries are in the archive alone, which can't be read now: nothing is \
                               lost, try again; the server's log says why";
                let refused = Self::too_soon(Code::ArchiveUnavailable, ARCHIVE_WAIT, message);
                refused.with_detail(why)
            }
            ReadError::Io(error) => Self::internal(format!("reading failed: {error}")),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownExperiment => unknown_experiment(),
            StoreError::BadDefinition(why) => Self::new(Code::BadDefinition, why),
            StoreError::TooManyVariants(_) => {
                let refused = Self::new(Code::BadDefinition, error.to_string());
                refused.with_limit(Limit::Variants)
            }
            StoreError::VariantInUse(_) => Self::new(Code::VariantInUse, error.to_string()),
            StoreError::TooManyExperiments => {
                Self::new(Code::TooManyExperiments, error.to_string())
            }
            StoreError::Read(error) => error.into(),
            StoreError::StorageFull => storage_full(),
            StoreError::StorageFailed => Self::new(Code::StorageFailed, error.to_string()),
            StoreError::Io(error) => Self::internal(format!("storage failed: {error}")),
        }
    }
}

#[cfg(feature = "nats")]
impl From<ReplicaError> for ApiError {
    fn from(error: ReplicaError) -> Self {
        match error {
            ReplicaError::Append(error) => error.into(),
            ReplicaError::Store(error) => error.into(),
            ReplicaError::Overloaded => overloaded(Limit::Mailbox),
            ReplicaError::TooLarge { .. } => Self::new(Code::BodyTooLarge, error.to_string()),
            ReplicaError::Unsettled => Self::new(Code::JournalUnavailable, error.to_string()),
            // Which shard, and why, is for the operator.
            ReplicaError::Stopped(_) => {
                let message = "this node takes nothing for this experiment until its operator has \
                               looked at it; nothing was stored, ask another node";
                Self::new(Code::JournalUnavailable, message).with_detail(error)
            }
            ReplicaError::ShuttingDown => shutting_down(),
        }
    }
}

impl From<OverBudget> for ApiError {
    fn from(_: OverBudget) -> Self {
        overloaded(Limit::InflightBytes)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing => Code::ApiKeyMissing,
            AuthError::Invalid => Code::ApiKeyInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::Scope(_) => Code::ScopeMissing,
            Denied::Experiment => Code::ExperimentForbidden,
            Denied::Restricted => Code::KeyRestricted,
        };
        Self::new(code, denied.to_string())
    }
}

impl From<KeyringError> for ApiError {
    fn from(error: KeyringError) -> Self {
        let code = match &error {
            KeyringError::BadRequest(_) => Code::BadKeyRequest,
            KeyringError::UnknownKey => Code::KeyNotFound,
            KeyringError::LastAdmin => Code::LastAdminKey,
            KeyringError::TooMany => Code::TooManyKeys,
            KeyringError::OtherBootstrap => return Self::internal(error),
            KeyringError::NotReached(_) => {
                let message = "the keys are shared, and where they are can't be reached: look whether it was done";
                return Self::new(Code::JournalUnavailable, message).with_detail(error);
            }
            KeyringError::Io(_) | KeyringError::BadFile(_) => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}

/// No experiment of this name, whether the name could be one or not.
pub fn unknown_experiment() -> ApiError {
    ApiError::new(
        Code::ExperimentNotFound,
        "there is no experiment with this slug",
    )
}

fn unknown_variant(defined: &[Box<str>]) -> ApiError {
    let known: Vec<_> = defined.iter().map(|key| format!("{key:?}")).collect();
    let message = match known.as_slice() {
        [] => "variantKey is not a variant of this experiment, which has none".to_owned(),
        known => format!("variantKey is not one of {}", known.join(", ")),
    };
    ApiError::new(Code::UnknownVariant, message)
}

fn overloaded(limit: Limit) -> ApiError {
    ApiError::overloaded(
        limit,
        "too many requests are in flight; nothing was stored, try again",
    )
}

fn storage_full() -> ApiError {
    ApiError::new(Code::StorageFull, "the disk is full; nothing was stored")
}

fn shutting_down() -> ApiError {
    ApiError::new(
        Code::ShuttingDown,
        "the server is shutting down; nothing was stored",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_that_were_refused() {
        let unknown = AppendError::UnknownVariant {
            position: 0,
            key: "secret".into(),
            defined: vec!["A".into(), "B".into()],
        };
        for (error, status, code) in [
            (AppendError::UnknownExperiment, 404, "experiment_not_found"),
            (unknown.clone(), 400, "unknown_variant"),
            (
                AppendError::TooManyVariants { position: 0 },
                400,
                "too_many_variants",
            ),
            (AppendError::Overloaded, 503, "overloaded"),
            (AppendError::MailboxFull, 503, "overloaded"),
            (AppendError::StorageFull, 507, "storage_full"),
            (AppendError::Failed, 500, "append_failed"),
            (AppendError::StorageFailed, 503, "storage_failed"),
            (AppendError::ShuttingDown, 503, "shutting_down"),
        ] {
            let error = ApiError::from(error);
            assert_eq!(
                (error.code.status().as_u16(), error.code.as_str()),
                (status, code)
            );
        }
        let message = ApiError::from(unknown).message;
        assert_eq!(message, r#"variantKey is not one of "A", "B""#);
    }

    #[test]
    fn what_is_damaged_stays_with_the_operator() {
        let error = ApiError::from(ReadError::Damaged("/var/lib/x.segment".into()));
        assert_eq!(error.code, Code::LogDamaged);
        assert!(!error.message.contains('/'));
        assert!(error.detail.is_some());
    }
}
