//! What can go wrong with an archive, in words that say what to do.

use std::io;

use object_store::Error as StoreError;

/// An error of an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The address can't be used.
    #[error(
        "{url} is no archive's address: give s3://BUCKET/PREFIX, gs://…, az://CONTAINER/… or file:///FOLDER ({error})"
    )]
    Address {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        error: String,
    },
    /// The storage refused, or can't be reached.
    #[error("{what} {place} failed: {}{}", advice(*.is_of_object, error), on_one_line(error))]
    Storage {
        /// What was tried.
        what: &'static str,
        /// With what.
        place: String,
        /// Whether a single object was asked for, which may be missing by itself.
        is_of_object: bool,
        /// What it said.
        error: StoreError,
    },
    /// What was read back isn't what was sent.
    #[error(
        "{place} isn't what was uploaded when it is read back: it is sent again (if that stays so, the storage or the way there damages data)"
    )]
    NotAsSent {
        /// The object.
        place: String,
    },
    /// The object is another whole segment.
    #[error(
        "{place} is another whole segment than the local one of that name: it is left as it is, and this experiment isn't archived further (does another server archive a copy of this store, or was this store restored from a backup? Give this one an address of its own)"
    )]
    Conflict {
        /// The object.
        place: String,
    },
    /// The object isn't there as it was, and no local copy is either.
    #[error(
        "{place} is missing in the archive, or isn't what was uploaded, and its local copy went: put it back, \
         if there is another copy"
    )]
    Gone {
        /// The object.
        place: String,
    },
    /// The local copy is damaged.
    #[error(
        "{path} is damaged, and isn't archived: `trialog verify --repair` writes what is whole of it"
    )]
    LocalDamage {
        /// The file.
        path: String,
    },
    /// The disk failed.
    #[error("{path}: {error}")]
    Disk {
        /// The file.
        path: String,
        /// What it said.
        error: io::Error,
    },
    /// There are no threads to be had.
    #[error("starting threads for the archive failed: {0}")]
    Threads(io::Error),
}

impl ArchiveError {
    /// Whether the same may go well with another experiment at once.
    pub fn is_of_one_log(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. }
                | Self::Gone { .. }
                | Self::LocalDamage { .. }
                | Self::Disk { .. }
        )
    }

    /// Whether the storage says that there is no such object.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Storage {
                error: StoreError::NotFound { .. },
                ..
            }
        )
    }

    /// As one of a disk, for readers that know no other.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Storage { error, .. } => match error {
                StoreError::NotFound { .. } => io::ErrorKind::NotFound,
                StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                    io::ErrorKind::PermissionDenied
                }
                _ => io::ErrorKind::Other,
            },
            Self::Address { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self.to_string())
    }
}

/// Some answers are XML.
fn on_one_line(error: &StoreError) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What to do about it, in front of what the storage said.
fn advice(is_of_object: bool, error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } if is_of_object => {
            "it is missing; `trialog verify` tells what else is: "
        }
        StoreError::NotFound { .. } => {
            "there is no such bucket, container or folder: make it, or correct the address: "
        }
        // A list tells it in its text alone.
        StoreError::Generic { .. } if error.to_string().contains("NoSuchBucket") => {
            "there is no such bucket: make it, or correct the address: "
        }
        StoreError::Generic { .. } if has_credentials() && is_refusal(error) => {
            "the credentials in the environment aren't accepted for it: "
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            "the credentials in the environment aren't accepted for it: "
        }
        // A folder needs none.
        StoreError::Generic {
            store: "LocalFileSystem",
            ..
        } => "",
        _ if !has_credentials() => {
            "no credentials are set in the environment (as AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS \
             or AZURE_STORAGE_ACCOUNT_KEY are), so those of the machine were asked for: "
        }
        _ => "",
    }
}

/// Whether a list was refused, which its text alone tells, too.
fn is_refusal(error: &StoreError) -> bool {
    let text = error.to_string();
    [": 401 ", ": 403 "]
        .iter()
        .any(|status| text.contains(status))
}

/// Whether the environment has something that credentials come from.
fn has_credentials() -> bool {
    let is_one = |name: &str| {
        let is_ours = ["AWS_", "GOOGLE_", "AZURE_"]
            .iter()
            .any(|begin| name.starts_with(begin));
        let words = [
            "KEY",
            "TOKEN",
            "CREDENTIALS",
            "SECRET",
            "SERVICE_ACCOUNT",
            "SKIP_SIGNATURE",
        ];
        is_ours && words.iter().any(|word| name.contains(word))
    };
    std::env::vars_os().any(|(name, _)| name.to_str().is_some_and(is_one))
}
