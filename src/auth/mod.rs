//! Who asks, and what they may do: API keys, their scopes, and the experiments they reach.

mod keyfile;
mod keyring;
mod session;
mod shared;

pub use keyring::{KeyInfo, Keyring, KeyringError, NewKey, check_own_key};
pub use session::{Holder, SESSION_COOKIE, SESSION_SECONDS};
pub use shared::SharedKeys;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::model::Slug;

const SECOND_NS: u64 = 1_000_000_000;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Append entries.
    Ingest,
    /// Read entries, definitions and figures.
    Read,
    /// Everything: define experiments, manage keys, and what the others may.
    Admin,
}

/// Why a request has no principal. Says nothing about which keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No key was sent.
    #[error("the x-api-key header is missing")]
    Missing,
    /// It is malformed, unknown, revoked or expired, or there are several.
    #[error("the x-api-key header holds no valid key")]
    Invalid,
}

/// Why a key may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It lacks the scope.
    #[error("this key lacks the scope {0}")]
    Scope(Scope),
    /// It is restricted to other experiments.
    #[error("this key is restricted to other experiments")]
    Experiment,
    /// It is restricted to some experiments, and this concerns all.
    #[error("this key is restricted to some experiments, so it can't manage keys")]
    Restricted,
}

/// Whose request it is.
#[derive(Debug)]
pub struct Principal {
    scopes: Vec<Scope>,
    /// Empty: all experiments.
    experiments: Vec<WildMatch>,
    expires_at_ms: Option<u64>,
    /// To the second; zero for never.
    used_at_ms: AtomicU64,
    /// When all that it asked for would be done at the rate it may ask, since the process began.
    done_at_ns: AtomicU64,
}

impl Principal {
    /// Whether it may use `scope`, on the experiment `slug` if one is named.
    pub fn may(&self, scope: Scope, slug: Option<&Slug>) -> Result<(), Denied> {
        if !self.scopes.contains(&scope) && !self.scopes.contains(&Scope::Admin) {
            return Err(Denied::Scope(scope));
        }
        match slug {
            Some(slug) if !self.sees(slug) => Err(Denied::Experiment),
            _ => Ok(()),
        }
    }

    /// Whether it may manage keys. One that is restricted could make itself another that isn't.
    pub fn may_manage_keys(&self) -> Result<(), Denied> {
        self.may(Scope::Admin, None)?;
        if self.experiments.is_empty() {
            Ok(())
        } else {
            Err(Denied::Restricted)
        }
    }

    /// Whether it reaches the experiment `slug`.
    pub fn sees(&self, slug: &Slug) -> bool {
        let mut globs = self.experiments.iter();
        self.experiments.is_empty() || globs.any(|glob| glob.matches(slug.as_str()))
    }

    /// Takes note of a request at `now` (since the process began), if there were fewer than `rate` of
    /// this key in a second; else says how long it has to wait. Zero is no limit.
    pub fn admit(&self, now: Duration, rate: u32) -> Result<(), Duration> {
        let Some(share) = SECOND_NS.checked_div(u64::from(rate)) else {
            return Ok(());
        };
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let ahead = |done_at: u64| done_at.saturating_sub(now_ns) + share;
        let (order, then) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = self.done_at_ns.fetch_update(order, then, |done_at| {
            (ahead(done_at) <= SECOND_NS).then(|| done_at.max(now_ns) + share)
        });
        let refused = |done_at| Duration::from_nanos(ahead(done_at).saturating_sub(SECOND_NS));
        taken.map(|_| ()).map_err(refused)
    }

    /// Takes note of when it was used, to the second: most requests only look.
    fn use_at(&self, now_ms: u64) {
        let second_ms = now_ms - now_ms % 1000;
        if self.used_at_ms.load(Ordering::Relaxed) != second_ms {
            self.used_at_ms.store(second_ms, Ordering::Relaxed);
        }
    }

    fn used_at_ms(&self) -> Option<u64> {
        Some(self.used_at_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    fn is_valid_at(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|end| now_ms < end)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        })
    }
}
