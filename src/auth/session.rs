//! Sessions of people who signed in with a key: a cookie that names the key and an end, and is signed.
//! The key itself isn't in it, nor kept anywhere; whether it still is in force is looked at for each
//! request. The secret that signs is made anew with each process, so a restart ends all sessions.

use std::io;
use std::sync::{Arc, OnceLock};

use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use hyper::header::COOKIE;
use sha2::Sha256;

use super::keyring::{KEY_LEN_MAX, Keyring};
use super::{AuthError, Principal};

/// The cookie's name.
pub const SESSION_COOKIE: &str = "trialog_session";
/// How long a session lasts.
pub const SESSION_SECONDS: u64 = 12 * 3600;
/// A cookie that is longer is none of ours.
const TOKEN_LEN_MAX: usize = 256;
/// Cookies of our name that are looked at: others of this host may have put theirs beside it.
const TOKENS_MAX: usize = 4;
const SECRET_WORDS: usize = 4;

/// Who signed in.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The key's id.
    pub id: String,
    /// The key's name.
    pub name: String,
    /// What it may do.
    pub principal: Arc<Principal>,
}

/// What signs the cookies.
#[derive(Default)]
pub(super) struct Sessions {
    /// Made when the first one is signed.
    secret: OnceLock<[u8; SECRET_WORDS * 8]>,
}

impl Keyring {
    /// Begins a session for whoever has the key with this text: what the cookie is to hold. `Ok(None)` if
    /// the machine has no random bits to sign with.
    pub fn sign_in(&self, text: &[u8]) -> Result<Option<(Holder, String)>, AuthError> {
        if text.len() > KEY_LEN_MAX {
            return Err(AuthError::Invalid);
        }
        let holder = self.find_key(text, Holder::of)?;
        let expires_at_ms = self.now_ms() + SESSION_SECONDS * 1000;
        let random = || self.random();
        let token = self.sessions.sign(&holder.id, expires_at_ms, random);
        Ok(token.ok().map(|token| (holder, token)))
    }

    /// Whose session the cookie in these headers is of, if it lasts and its key is in force.
    pub fn session(&self, headers: &HeaderMap) -> Result<Holder, AuthError> {
        let mut error = AuthError::Missing;
        for token in tokens(headers).take(TOKENS_MAX) {
            error = AuthError::Invalid;
            if let Some(id) = self.sessions.read(token, self.now_ms()) {
                return self.holder(id);
            }
        }
        Err(error)
    }
}

impl Sessions {
    fn sign(
        &self,
        id: &str,
        expires_at_ms: u64,
        random: impl Fn() -> io::Result<u64>,
    ) -> io::Result<String> {
        if self.secret.get().is_none() {
            let mut secret = [0; SECRET_WORDS * 8];
            for word in secret.chunks_exact_mut(8) {
                word.copy_from_slice(&random()?.to_le_bytes());
            }
            // Of two that come at the same time one's secret is taken.
            let _was_made = self.secret.set(secret);
        }
        let signed = format!("{id}.{expires_at_ms}");
        let mac = self
            .mac(&signed)
            .ok_or_else(|| io::Error::other("no secret"))?;
        let mac = mac.finalize().into_bytes();
        let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{signed}.{mac}"))
    }

    /// The key's id in a token that we signed and that hasn't ended.
    fn read<'t>(&self, token: &'t str, now_ms: u64) -> Option<&'t str> {
        let (signed, mac) = token.rsplit_once('.')?;
        let (id, expires_at_ms) = signed.rsplit_once('.')?;
        let mac = bytes_of(mac)?;
        // In constant time.
        self.mac(signed)?.verify_slice(&mac).ok()?;
        let expires_at_ms: u64 = expires_at_ms.parse().ok()?;
        (now_ms < expires_at_ms).then_some(id)
    }

    fn mac(&self, signed: &str) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.get()?).ok()?;
        mac.update(signed.as_bytes());
        Some(mac)
    }
}

/// The values of our cookie.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter();
    let cookies = cookies.filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';'));
    pairs.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == SESSION_COOKIE && value.len() <= TOKEN_LEN_MAX).then_some(value)
    })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |digits: &[u8]| {
        let [high, low] = digits else { return None };
        let digit = |digit: u8| char::from(digit).to_digit(16);
        Some((digit(*high)? * 16 + digit(*low)?) as u8)
    };
    digits.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_764_000_000_000;

    fn sessions() -> (Sessions, String) {
        let sessions = Sessions::default();
        let token = sessions.sign("abc", NOW_MS, || Ok(7)).unwrap();
        (sessions, token)
    }

    #[test]
    fn a_token_names_its_key_until_it_ends() {
        let (sessions, token) = sessions();
        assert_eq!(sessions.read(&token, NOW_MS - 1), Some("abc"));
        assert_eq!(sessions.read(&token, NOW_MS), None);
        assert_eq!(
            Sessions::default().read(&token, 0),
            None,
            "nothing was signed"
        );
    }

    #[test]
    fn no_changed_token_is_taken() {
        let (sessions, token) = sessions();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(sessions.read(&changed, 0), None, "{changed}");
            assert_eq!(sessions.read(&token[..at], 0), None);
        }
        let other = Sessions::default();
        other.sign("x", NOW_MS, || Ok(8)).unwrap();
        assert_eq!(other.read(&token, 0), None, "another process signed it");
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=b; trialog_session=one;c=d".parse().unwrap());
        headers.append(
            COOKIE,
            "xtrialog_session=no; trialog_session=two".parse().unwrap(),
        );
        assert_eq!(tokens(&headers).collect::<Vec<_>>(), ["one", "two"]);
    }
}
