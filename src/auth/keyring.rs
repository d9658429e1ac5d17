//! The keys that are in force.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use wildmatch::WildMatch;

use super::keyfile::{self, KeyRecord};
use super::session::{Holder, Sessions};
use super::shared::SharedKeys;
use super::{AuthError, Principal, Scope};
use crate::entry_json::rfc3339_ms;
use crate::fs::Host;

/// How many keys there may be.
pub const KEYS_MAX: usize = 10_000;

const KEY_PREFIX: &str = "tl_";
const BEARER: &[u8] = b"bearer ";
/// The id of a first key that the operator chose.
const BOOTSTRAP_ID: &str = "bootstrap";
const BOOTSTRAP_LEN_MIN: usize = 32;
pub(super) const KEY_LEN_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 200;
const GLOBS_MAX: usize = 100;
const GLOB_BYTES_MAX: usize = 128;
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Why a key was not made, revoked or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// What was asked for can't be: says why.
    #[error("{0}")]
    BadRequest(String),
    /// There is no key with this id.
    #[error("there is no key with this id")]
    UnknownKey,
    /// Without it nobody could make keys any more.
    #[error(
        "this is the last admin key for all experiments that doesn't end: make another one first"
    )]
    LastAdmin,
    /// Another server that shares its keys with this one began with another text.
    #[error("the keys have another TRIALOG_BOOTSTRAP_KEY already: give that one, or none")]
    OtherBootstrap,
    /// There are as many keys as there may be.
    #[error("there are {KEYS_MAX} keys already: revoke some first")]
    TooMany,
    /// The key file can't be read.
    #[error("{0}")]
    BadFile(String),
    /// The disk failed.
    #[error("writing the keys failed: {0}")]
    Io(io::Error),
    /// They are shared, and where they are can't be reached.
    #[error(
        "the keys that are shared can't be reached: whether they were changed isn't known, look and try again: {0}"
    )]
    NotReached(io::Error),
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The experiments it reaches, as globs; none for all.
    pub experiments: Vec<String>,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

/// A key without its secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyInfo {
    /// What names it in the API.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The experiments it reaches, as globs; none for all.
    pub experiments: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was last used, to the second; after a process that was killed, up to a minute before.
    pub last_used_at: Option<String>,
}

/// All keys of a store. Look-ups never wait for the disk.
pub struct Keyring {
    host: Host,
    path: PathBuf,
    keys: RwLock<Keys>,
    /// Held while the file is replaced: which revision of the keys that are shared it has.
    pub(super) changing: Mutex<u64>,
    /// Where they are, if several servers share them.
    pub(super) shared: Option<Box<dyn SharedKeys>>,
    /// Of those who signed in with a key.
    pub(super) sessions: Sessions,
}

pub(super) type Keys = HashMap<Box<str>, Key>;

/// A key.
#[derive(Clone)]
pub(super) struct Key {
    /// Its place in the order in which they were made, which a clock set back doesn't change.
    place: u64,
    pub(super) record: KeyRecord,
    sha256: [u8; 32],
    pub(super) principal: Arc<Principal>,
}

impl Keyring {
    /// Reads the keys of the store in `dir`; says whether there was a key file.
    pub fn open(host: &Host, dir: &Path) -> Result<(Self, bool), KeyringError> {
        let path = dir.join("keys.json");
        let bad = |error: &dyn std::fmt::Display| {
            KeyringError::BadFile(format!(
                "{} can't be read ({error}): restore it, or remove it to begin with a new admin key",
                path.display()
            ))
        };
        let records = keyfile::read(&*host.disk, &path).map_err(|error| bad(&error))?;
        let is_known = records.is_some();
        let keys = keyed(records.unwrap_or_default()).map_err(|why| bad(&why))?;
        let keyring = Self {
            host: host.clone(),
            path,
            keys: RwLock::new(keys),
            changing: Mutex::default(),
            shared: None,
            sessions: Sessions::default(),
        };
        Ok((keyring, is_known))
    }

    /// Whose request has these headers.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, AuthError> {
        let mut sent = headers.get_all("x-api-key").iter();
        let text = sent.next().ok_or(AuthError::Missing)?;
        if sent.next().is_some() || text.len() > KEY_LEN_MAX {
            return Err(AuthError::Invalid);
        }
        self.find(text.as_bytes())
    }

    /// As [`Self::authenticate`], by `authorization: Bearer`: for clients that can send nothing else.
    pub fn authenticate_bearer(&self, headers: &HeaderMap) -> Result<Arc<Principal>, AuthError> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let value = sent.next().ok_or(AuthError::Missing)?.as_bytes();
        let (scheme, text) = value
            .split_at_checked(BEARER.len())
            .ok_or(AuthError::Invalid)?;
        let is_bearer = scheme.eq_ignore_ascii_case(BEARER);
        if !is_bearer || sent.next().is_some() || text.len() > KEY_LEN_MAX {
            return Err(AuthError::Invalid);
        }
        self.find(text)
    }

    fn find(&self, text: &[u8]) -> Result<Arc<Principal>, AuthError> {
        self.find_key(text, |key| key.principal.clone())
    }

    /// What `take` wants of the key with this text, if it is in force.
    pub(super) fn find_key<T>(
        &self,
        text: &[u8],
        take: impl FnOnce(&Key) -> T,
    ) -> Result<T, AuthError> {
        let sha256: [u8; 32] = Sha256::digest(text).into();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = id_of(text).and_then(|id| keys.get(id));
        let key = key
            .or_else(|| keys.get(BOOTSTRAP_ID))
            .ok_or(AuthError::Invalid)?;
        let is_same: bool = key.sha256.ct_eq(&sha256).into();
        let now_ms = self.now_ms();
        if is_same && key.principal.is_valid_at(now_ms) {
            key.principal.use_at(now_ms);
            Ok(take(key))
        } else {
            Err(AuthError::Invalid)
        }
    }

    /// Who holds the key with this id, if it is in force.
    pub fn holder(&self, id: &str) -> Result<Holder, AuthError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.get(id).ok_or(AuthError::Invalid)?;
        let now_ms = self.now_ms();
        if !key.principal.is_valid_at(now_ms) {
            return Err(AuthError::Invalid);
        }
        key.principal.use_at(now_ms);
        Ok(Holder::of(key))
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.host.clock.now_ms()
    }

    pub(super) fn random(&self) -> io::Result<u64> {
        self.host.entropy.next_u64()
    }

    /// Makes a key: durable when this returns, with its text, which is nowhere else.
    pub fn create(&self, new: NewKey) -> Result<(KeyInfo, String), KeyringError> {
        check(&new)?;
        let now_ms = self.host.clock.now_ms();
        if new.expires_at_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            return Err(KeyringError::BadRequest("expiresAt is in the past".into()));
        }
        let (id, text) = self.new_text().map_err(KeyringError::Io)?;
        let info = self.add(id, new, &text)?;
        Ok((info, text))
    }

    /// Makes the first key: of the operator's own text, if there is one. `keep` puts the text
    /// where the operator finds it, before the key is in force.
    pub fn create_first(
        &self,
        own: Option<String>,
        keep: impl FnOnce(&str) -> io::Result<()>,
    ) -> Result<(), KeyringError> {
        let new = NewKey {
            name: "first admin key".into(),
            scopes: vec![Scope::Admin],
            experiments: Vec::new(),
            expires_at_ms: None,
        };
        let Some(text) = own else {
            let (id, text) = self.new_text().map_err(KeyringError::Io)?;
            keep(&text).map_err(KeyringError::Io)?;
            return self.add(id, new, &text).map(|_| ());
        };
        check_own_key(&text)?;
        keep(&text).map_err(KeyringError::Io)?;
        self.add(BOOTSTRAP_ID.into(), new, &text).map(|_| ())
    }

    /// All keys, oldest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let records = in_order(&keys).into_iter();
        records.map(|key| KeyInfo::of(&key.record_now())).collect()
    }

    /// Revokes a key: in force, and durable, when this returns.
    pub fn revoke(&self, id: &str) -> Result<(), KeyringError> {
        self.change(|keys| {
            let removed = keys.remove(id).ok_or(KeyringError::UnknownKey)?;
            // One that ends some day would leave nobody then.
            let manages = |key: &Key| {
                key.record.expires_at_ms.is_none() && key.principal.may_manage_keys().is_ok()
            };
            if manages(&removed) && !keys.values().any(manages) {
                return Err(KeyringError::LastAdmin);
            }
            Ok(())
        })
    }

    /// Writes down when the keys were last used, if any was since this was last done.
    pub fn keep_used(&self) -> Result<(), KeyringError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = self.snapshot();
        let mut any = false;
        for key in keys.values_mut() {
            let now = key.record_now();
            any |= now != key.record;
            key.record = now;
        }
        match any {
            true => self.replace(keys),
            false => Ok(()),
        }
    }

    fn add(&self, id: String, new: NewKey, text: &str) -> Result<KeyInfo, KeyringError> {
        let record = KeyRecord {
            id,
            name: new.name,
            scopes: new.scopes,
            experiments: new.experiments,
            created_at_ms: self.host.clock.now_ms(),
            expires_at_ms: new.expires_at_ms,
            last_used_at_ms: None,
            sha256: hex(&Sha256::digest(text.as_bytes())),
        };
        self.change(|keys| {
            if keys.len() >= KEYS_MAX {
                return Err(KeyringError::TooMany);
            }
            let id: Box<str> = record.id.as_str().into();
            let place = keys.values().map(|key| key.place + 1).max();
            let key = Key::new(place.unwrap_or(0), record.clone());
            let key = key.ok_or(KeyringError::UnknownKey)?;
            match keys.get(&id) {
                // Ids are random, but for this one.
                Some(there) if there.sha256 != key.sha256 => Err(KeyringError::OtherBootstrap),
                _ => {
                    keys.insert(id, key);
                    Ok(())
                }
            }
        })?;
        Ok(KeyInfo::of(&record))
    }

    pub(super) fn snapshot(&self) -> Keys {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    pub(super) fn replace(&self, keys: Keys) -> Result<(), KeyringError> {
        keyfile::write(&*self.host.disk, &self.path, records(&keys)).map_err(KeyringError::Io)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn new_text(&self) -> io::Result<(String, String)> {
        let id = self.random_text(12)?;
        let secret = self.random_text(32)?;
        let text = format!("{KEY_PREFIX}{id}_{secret}");
        Ok((id, text))
    }

    fn random_text(&self, len: usize) -> io::Result<String> {
        let mut text = String::with_capacity(len);
        while text.len() < len {
            let bits = self.host.entropy.next_u64()?;
            // 12 characters of 5 bits from each 64.
            for n in 0..12.min(len - text.len()) {
                let place = (bits >> (n * 5)) as usize % ALPHABET.len();
                text.push(char::from(ALPHABET.get(place).copied().unwrap_or(b'a')));
            }
        }
        Ok(text)
    }
}

/// Keys in the order of their records; says which one can't be.
pub(super) fn keyed(records: Vec<KeyRecord>) -> Result<Keys, String> {
    let keyed = (0..).zip(records).map(|(place, record)| {
        let id: Box<str> = record.id.as_str().into();
        let key = Key::new(place, record).ok_or_else(|| format!("key {id} has no SHA-256"))?;
        Ok((id, key))
    });
    keyed.collect()
}

/// What is kept of the keys.
pub(super) fn records(keys: &Keys) -> Vec<KeyRecord> {
    in_order(keys).into_iter().map(Key::record_now).collect()
}

fn in_order(keys: &Keys) -> Vec<&Key> {
    let mut keys: Vec<_> = keys.values().collect();
    keys.sort_by_key(|key| key.place);
    keys
}

impl Key {
    fn new(place: u64, record: KeyRecord) -> Option<Self> {
        let globs = record.experiments.iter().map(|glob| WildMatch::new(glob));
        let principal = Arc::new(Principal {
            scopes: record.scopes.clone(),
            experiments: globs.collect(),
            expires_at_ms: record.expires_at_ms,
            used_at_ms: record.last_used_at_ms.unwrap_or(0).into(),
            done_at_ns: 0.into(),
        });
        let sha256 = unhex(&record.sha256)?;
        Some(Self {
            place,
            record,
            sha256,
            principal,
        })
    }

    fn record_now(&self) -> KeyRecord {
        KeyRecord {
            last_used_at_ms: self.principal.used_at_ms(),
            ..self.record.clone()
        }
    }
}

impl Holder {
    pub(super) fn of(key: &Key) -> Self {
        Self {
            id: key.record.id.clone(),
            name: key.record.name.clone(),
            principal: key.principal.clone(),
        }
    }
}

impl KeyInfo {
    fn of(record: &KeyRecord) -> Self {
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            scopes: record.scopes.clone(),
            experiments: record.experiments.clone(),
            created_at: rfc3339_ms(record.created_at_ms),
            expires_at: record.expires_at_ms.map(rfc3339_ms),
            last_used_at: record.last_used_at_ms.map(rfc3339_ms),
        }
    }
}

/// Whether the operator's own text can be the first key.
pub fn check_own_key(text: &str) -> Result<(), KeyringError> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible && (BOOTSTRAP_LEN_MIN..=KEY_LEN_MAX).contains(&text.len()) {
        return Ok(());
    }
    Err(KeyringError::BadRequest(format!(
        "TRIALOG_BOOTSTRAP_KEY must be {BOOTSTRAP_LEN_MIN} to {KEY_LEN_MAX} visible ASCII characters"
    )))
}

fn check(new: &NewKey) -> Result<(), KeyringError> {
    let bad = |why: String| Err(KeyringError::BadRequest(why));
    if new.name.is_empty() || new.name.len() > NAME_BYTES_MAX {
        return bad(format!("a key's name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    if new.scopes.is_empty() {
        return bad("a key needs at least one scope: ingest, read or admin".into());
    }
    let is_glob = |glob: &String| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*?".contains(&b);
        (1..=GLOB_BYTES_MAX).contains(&glob.len()) && glob.bytes().all(fits)
    };
    if new.experiments.len() > GLOBS_MAX || !new.experiments.iter().all(is_glob) {
        return bad(format!(
            "experiments are at most {GLOBS_MAX} slugs, in which '*' and '?' stand for others"
        ));
    }
    Ok(())
}

/// The id in a key's text.
fn id_of(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let (id, _) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    Some(id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let [high, low] = digits else { return None };
        *byte = (digit(high)? * 16 + digit(low)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
