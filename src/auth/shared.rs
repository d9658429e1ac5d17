//! Keys that several servers share: one value with a revision, in a place that all of them reach.
//!
//! A server changes what it has seen last, and only if nobody else was first; else it takes what is there
//! now and tries again. So that there is always one who manages keys holds over all servers. Each keeps what
//! it saw in its own file, and begins with that where the place can't be reached.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::keyfile;
use super::keyring::{Keyring, KeyringError, Keys, keyed, records};

/// How often a change is tried while others are first.
const ATTEMPTS_MAX: usize = 20;

/// Where the keys are that several servers share. Its calls block.
pub trait SharedKeys: Send + Sync {
    /// What is there, and its revision, which rises; `None` when nothing was put there yet.
    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>>;

    /// Puts `bytes` in place of what has this revision (0: of nothing); gives back the new revision, or
    /// `None` when something else is there.
    fn replace(&self, revision: u64, bytes: Vec<u8>) -> io::Result<Option<u64>>;
}

impl Keyring {
    /// Shares the keys from now on, and takes those that are there; says whether there were any.
    pub fn share(&mut self, shared: Box<dyn SharedKeys>) -> Result<bool, KeyringError> {
        let there = shared.read().map_err(KeyringError::NotReached)?;
        self.shared = Some(shared);
        match there {
            None => Ok(false),
            Some((revision, bytes)) => self.adopt(revision, &bytes).map(|()| true),
        }
    }

    /// Takes keys as they were shared, unless what it has is newer. Those that didn't change go on as they are.
    pub fn adopt(&self, revision: u64, bytes: &[u8]) -> Result<(), KeyringError> {
        let mut seen = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(&mut seen, revision, bytes)
    }

    fn take(&self, seen: &mut u64, revision: u64, bytes: &[u8]) -> Result<(), KeyringError> {
        if revision <= *seen {
            return Ok(());
        }
        let bad = |why: String| {
            KeyringError::BadFile(format!("the keys that are shared can't be read: {why}"))
        };
        let read = keyfile::decode(bytes).map_err(|error| bad(error.to_string()))?;
        let mut keys = keyed(read).map_err(bad)?;
        for (id, mine) in self.snapshot() {
            let Some(theirs) = keys.get_mut(&id) else {
                continue;
            };
            // When it was used last is each server's own.
            theirs.record.last_used_at_ms = mine.record.last_used_at_ms;
            if theirs.record == mine.record {
                theirs.principal = mine.principal;
            } else if let Some(at) = mine.principal.used_at_ms() {
                theirs.principal.used_at_ms.store(at, Ordering::Relaxed);
            }
        }
        self.replace(keys)?;
        *seen = revision;
        Ok(())
    }

    /// Changes the keys, here and where they are shared: in force, and durable, when this returns.
    pub(super) fn change(
        &self,
        make: impl Fn(&mut Keys) -> Result<(), KeyringError>,
    ) -> Result<(), KeyringError> {
        let mut seen = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS_MAX {
            let mut keys = self.snapshot();
            make(&mut keys)?;
            let Some(shared) = &self.shared else {
                return self.replace(keys);
            };
            let bytes = keyfile::encode(records(&keys)).map_err(KeyringError::Io)?;
            let replaced = shared.replace(*seen, bytes);
            if let Some(revision) = replaced.map_err(KeyringError::NotReached)? {
                self.replace(keys)?;
                *seen = revision;
                return Ok(());
            }
            if let Some((revision, bytes)) = shared.read().map_err(KeyringError::NotReached)? {
                self.take(&mut seen, revision, &bytes)?;
            }
        }
        let error = io::Error::other("others changed them each time, try again");
        Err(KeyringError::NotReached(error))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::auth::{NewKey, Scope};
    use crate::fs::sim::SimMachine;

    /// A place in memory: what is there, its revision, and whether it can be reached.
    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<(u64, Vec<u8>, bool)>>);

    impl SharedKeys for Place {
        fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
            let (revision, bytes, is_away) = self.0.lock().unwrap().clone();
            match is_away {
                true => Err(io::Error::other("away")),
                false => Ok((revision > 0).then_some((revision, bytes))),
            }
        }

        fn replace(&self, revision: u64, bytes: Vec<u8>) -> io::Result<Option<u64>> {
            let mut there = self.0.lock().unwrap();
            if there.2 {
                return Err(io::Error::other("away"));
            }
            if there.0 != revision {
                return Ok(None);
            }
            (there.0, there.1) = (revision + 1, bytes);
            Ok(Some(revision + 1))
        }
    }

    fn server(machine: &SimMachine, place: &Place) -> (Keyring, bool) {
        let (mut keyring, _) = Keyring::open(&machine.host(), Path::new("/")).unwrap();
        let were_there = keyring.share(Box::new(place.clone())).unwrap();
        (keyring, were_there)
    }

    fn new(name: &str, scopes: &[Scope]) -> NewKey {
        NewKey {
            name: name.into(),
            scopes: scopes.to_vec(),
            experiments: Vec::new(),
            expires_at_ms: None,
        }
    }

    fn names(keyring: &Keyring) -> Vec<String> {
        keyring.list().into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn what_one_server_changes_the_next_one_builds_on() {
        let place = Place::default();
        let machines = [SimMachine::new(1, 512), SimMachine::new(2, 512)];
        let (a, were_there) = server(&machines[0], &place);
        assert!(!were_there);
        a.create(new("of a", &[Scope::Admin])).unwrap();
        let (b, were_there) = server(&machines[1], &place);
        assert!(were_there);
        let (of_b, text) = b.create(new("of b", &[Scope::Ingest])).unwrap();
        // It has not heard of b's yet: its change is refused, and made anew on top of that.
        a.create(new("of a, too", &[Scope::Read])).unwrap();
        assert_eq!(names(&a), ["of a", "of b", "of a, too"]);
        assert!(a.find_key(text.as_bytes(), |_| ()).is_ok());
        a.revoke(&of_b.id).unwrap();
        let (revision, bytes) = place.read().unwrap().unwrap();
        b.adopt(revision, &bytes).unwrap();
        assert_eq!(names(&b), ["of a", "of a, too"]);
        assert!(b.find_key(text.as_bytes(), |_| ()).is_err());
        // What comes late changes nothing.
        b.adopt(1, b"no keys at all").unwrap();
        drop(b);
        let (b, _) = Keyring::open(&machines[1].host(), Path::new("/")).unwrap();
        assert_eq!(names(&b), ["of a", "of a, too"]);
    }

    #[test]
    fn two_servers_can_not_revoke_each_others_last_admin_key() {
        let place = Place::default();
        let machines = [SimMachine::new(1, 512), SimMachine::new(2, 512)];
        let (a, _) = server(&machines[0], &place);
        let (first, _) = a.create(new("first", &[Scope::Admin])).unwrap();
        let (second, _) = a.create(new("second", &[Scope::Admin])).unwrap();
        let (b, _) = server(&machines[1], &place);
        a.revoke(&first.id).unwrap();
        let refused = b.revoke(&second.id).unwrap_err();
        assert!(matches!(refused, KeyringError::LastAdmin), "{refused}");
        assert_eq!(names(&b), ["second"]);
    }

    #[test]
    fn without_the_place_nothing_changes_and_keys_are_in_force() {
        let place = Place::default();
        let machine = SimMachine::new(1, 512);
        let (keyring, _) = server(&machine, &place);
        let (info, text) = keyring.create(new("first", &[Scope::Admin])).unwrap();
        keyring.create(new("second", &[Scope::Admin])).unwrap();
        place.0.lock().unwrap().2 = true;
        let refused = keyring.create(new("third", &[Scope::Read])).unwrap_err();
        assert!(matches!(refused, KeyringError::NotReached(_)), "{refused}");
        let refused = keyring.revoke(&info.id).unwrap_err();
        assert!(matches!(refused, KeyringError::NotReached(_)), "{refused}");
        assert_eq!(names(&keyring), ["first", "second"]);
        assert!(keyring.find_key(text.as_bytes(), |_| ()).is_ok());
    }

    #[test]
    fn first_keys_of_servers_that_begin_together_are_all_there() {
        let place = Place::default();
        let machines = [1, 2, 3].map(|seed| SimMachine::new(seed, 512));
        let keyrings: Vec<_> = machines.iter().map(|m| server(m, &place).0).collect();
        let own = |text: &str| Some(text.repeat(32));
        keyrings[0].create_first(None, |_| Ok(())).unwrap();
        keyrings[1].create_first(own("b"), |_| Ok(())).unwrap();
        keyrings[2].create_first(own("b"), |_| Ok(())).unwrap();
        assert_eq!(keyrings[2].list().len(), 2);
        let (mut late, _) = Keyring::open(&SimMachine::new(4, 512).host(), Path::new("/")).unwrap();
        late.shared = Some(Box::new(place.clone()));
        let refused = late.create_first(own("c"), |_| Ok(())).unwrap_err();
        assert!(matches!(refused, KeyringError::OtherBootstrap), "{refused}");
    }
}
