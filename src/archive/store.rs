//! An archive: a place in an object store, and what is asked of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, ObjectStoreScheme, PutPayload, RetryConfig,
};
use tokio_rustls::rustls::crypto::ring;
use url::Url;

use super::error::ArchiveError;
use crate::log::segment::SEGMENT_SUFFIX;

/// What is sent or read by one request at most. Of several parts of one object, S3 wants 5 MiB and more.
pub const PART_BYTES: u64 = 8 << 20;
/// A request that failed is sent again at once so often; then it is for who asked to wait.
const RETRIES_MAX: usize = 2;
const RETRY_TIME_MAX: Duration = Duration::from_secs(20);

/// A place in an object store.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// Where it begins.
    pub prefix: Path,
    /// Its address up to the prefix, for people.
    base: String,
}

/// An object, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it is.
    pub path: Path,
    /// Its length.
    pub len: u64,
    /// Differs between objects that differ, where the store has such.
    pub tag: Option<String>,
}

impl Archive {
    /// The archive at an address: `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///…`. Credentials and
    /// endpoints come from the environment. Nothing is asked of the store yet.
    pub fn open(address: &str) -> Result<Self, ArchiveError> {
        let bad = |error: &dyn std::fmt::Display| ArchiveError::Address {
            url: address.to_owned(),
            error: error.to_string(),
        };
        // Whoever was first has settled it, and it is ring's everywhere here.
        let _settled = ring::default_provider().install_default();
        let url = Url::parse(address).map_err(|error| bad(&error))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|error| bad(&error))?;
        let store = build(&url, &scheme).map_err(|error| bad(&error))?;
        let host = url.host_str().unwrap_or_default();
        let base = format!("{}://{host}/", url.scheme());
        Ok(Self {
            store,
            prefix,
            base,
        })
    }

    /// The address of an object, for people.
    pub fn place(&self, path: &Path) -> String {
        format!("{}{path}", self.base)
    }

    /// All objects below `path`.
    pub async fn list(&self, path: &Path) -> Result<Vec<Object>, ArchiveError> {
        let listed = self.store.list(Some(path)).map_ok(Object::from);
        let listed = listed.try_collect::<Vec<_>>().await;
        listed.or_else(|error| match error {
            // A folder that nothing was put into yet.
            StoreError::NotFound { .. } if self.base.starts_with("file:") => Ok(Vec::new()),
            error => Err(self.failed("listing", path, false, error)),
        })
    }

    /// Whether there is any segment below `path`.
    pub async fn has_segments(&self, path: &Path) -> Result<bool, ArchiveError> {
        let mut listed = self.store.list(Some(path));
        while let Some(object) = listed.next().await {
            match object {
                Ok(object) if object.location.as_ref().ends_with(SEGMENT_SUFFIX) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(self.failed("listing", path, false, error)),
            }
        }
        Ok(false)
    }

    /// The object at `path`, if there is one.
    pub async fn head(&self, path: &Path) -> Result<Option<Object>, ArchiveError> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta.into())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("asking for", path, true, error)),
        }
    }

    /// These bytes of an object: fewer when it ends before.
    pub async fn read(&self, path: &Path, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let read = async { self.store.get_opts(path, options).await?.bytes().await };
        read.await
            .map_err(|error| self.failed("reading", path, true, error))
    }

    /// All `len` bytes of an object, by several requests at a time; fewer when it has become shorter.
    pub async fn read_all(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, ArchiveError> {
        let reads = ranges.iter().map(|range| self.read(path, range.clone()));
        futures_util::stream::iter(reads)
            .buffered(4)
            .try_collect()
            .await
    }

    /// Makes or replaces an object.
    pub async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), ArchiveError> {
        match self.store.put(path, PutPayload::from_bytes(bytes)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("uploading", path, false, error)),
        }
    }

    /// Begins to make or replace an object by parts. What isn't completed is no object.
    pub async fn put_parts(&self, path: &Path) -> Result<Parts<'_>, ArchiveError> {
        match self.store.put_multipart(path).await {
            Ok(upload) => Ok(Parts {
                archive: self,
                path: path.clone(),
                upload,
            }),
            Err(error) => Err(self.failed("uploading", path, false, error)),
        }
    }

    fn failed(
        &self,
        what: &'static str,
        path: &Path,
        is_of_object: bool,
        error: StoreError,
    ) -> ArchiveError {
        ArchiveError::Storage {
            what,
            place: self.place(path),
            is_of_object,
            error,
        }
    }
}

/// An object on its way, part by part.
pub struct Parts<'a> {
    archive: &'a Archive,
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

impl Parts<'_> {
    /// Sends the next part.
    pub async fn put(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        let sent = self.upload.put_part(PutPayload::from_bytes(bytes)).await;
        sent.map_err(|error| self.failed(error))
    }

    /// Makes the object of the parts.
    pub async fn complete(mut self) -> Result<(), ArchiveError> {
        let done = self.upload.complete().await;
        done.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Has the store forget the parts, as far as it hears it: it is no object without them.
    pub async fn abort(mut self) {
        let _unheard = self.upload.abort().await;
    }

    fn failed(&self, error: StoreError) -> ArchiveError {
        self.archive.failed("uploading", &self.path, false, error)
    }
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            path: meta.location,
            len: meta.size,
            // Azure's list leaves out the quotes that all else has.
            tag: meta.e_tag.map(|tag| tag.trim_matches('"').to_owned()),
        }
    }
}

fn build(url: &Url, scheme: &ObjectStoreScheme) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIME_MAX,
        ..RetryConfig::default()
    };
    Ok(match scheme {
        // A segment may be dropped here once it is there.
        ObjectStoreScheme::Local => Arc::new(LocalFileSystem::new().with_fsync(true)),
        ObjectStoreScheme::AmazonS3 => {
            let builder = AmazonS3Builder::from_env().with_url(url.as_str());
            Arc::new(builder.with_retry(retry).build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            Arc::new(builder.with_retry(retry).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            Arc::new(builder.with_retry(retry).build()?)
        }
        _ => {
            return Err(StoreError::NotSupported {
                source: "another kind of storage".into(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_other_kinds_are_refused() {
        for address in [
            "memory:///x",
            "http://localhost/x",
            "x",
            "s3:/x",
            "ftp://x/y",
        ] {
            let error = Archive::open(address).err().unwrap().to_string();
            assert!(
                error.starts_with(&format!("{address} is no archive's address")),
                "{error}"
            );
        }
        let archive = Archive::open("file:///some/where/").unwrap();
        assert_eq!(archive.prefix.as_ref(), "some/where");
        assert_eq!(archive.place(&archive.prefix), "file:///some/where");
    }
}
