//! Keys: made, found, revoked, kept.

use super::super::Denied;
use super::*;
use crate::fs::sim::SimMachine;
use crate::model::Slug;
use hyper::header::HeaderValue;
use std::time::Duration;

fn headers(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_str(key).unwrap());
    headers
}

fn keyring() -> (SimMachine, Keyring) {
    let machine = SimMachine::new(3, 512);
    let (keyring, is_known) = Keyring::open(&machine.host(), Path::new("/")).unwrap();
    assert!(!is_known);
    (machine, keyring)
}

fn new(scopes: &[Scope], experiments: &[&str]) -> NewKey {
    NewKey {
        name: "test".into(),
        scopes: scopes.to_vec(),
        experiments: experiments.iter().map(|glob| (*glob).to_owned()).collect(),
        expires_at_ms: None,
    }
}

#[test]
fn a_key_does_what_it_may_and_no_more() {
    let (_, keyring) = keyring();
    let (_, text) = keyring
        .create(new(&[Scope::Ingest], &["search-*"]))
        .unwrap();
    assert!(text.len() > 40 && text.starts_with("tl_"));
    let principal = keyring.authenticate(&headers(&text)).unwrap();
    let [mine, other] = ["search-ranker", "chat"].map(|slug| Slug::parse(slug).unwrap());
    assert_eq!(principal.may(Scope::Ingest, Some(&mine)), Ok(()));
    assert_eq!(
        principal.may(Scope::Ingest, Some(&other)),
        Err(Denied::Experiment)
    );
    assert_eq!(
        principal.may(Scope::Read, Some(&mine)),
        Err(Denied::Scope(Scope::Read))
    );
    let (_, text) = keyring.create(new(&[Scope::Admin], &["search-*"])).unwrap();
    let admin = keyring.authenticate(&headers(&text)).unwrap();
    assert_eq!(admin.may(Scope::Ingest, Some(&mine)), Ok(()));
    assert_eq!(admin.may_manage_keys(), Err(Denied::Restricted));
}
#[test]
fn wrong_keys_are_invalid() {
    let (_, keyring) = keyring();
    let (_, text) = keyring.create(new(&[Scope::Read], &[])).unwrap();
    assert_eq!(
        keyring.authenticate(&HeaderMap::new()).unwrap_err(),
        AuthError::Missing
    );
    let mut flipped = text.clone().into_bytes();
    *flipped.last_mut().unwrap() ^= 1;
    let flipped = String::from_utf8(flipped).unwrap();
    for wrong in ["", "tl_", "tl_x_y", &text[..text.len() - 1], &flipped] {
        let error = keyring.authenticate(&headers(wrong)).unwrap_err();
        assert_eq!(error, AuthError::Invalid);
    }
    let mut twice = headers(&text);
    twice.append("x-api-key", HeaderValue::from_str(&text).unwrap());
    assert_eq!(
        keyring.authenticate(&twice).unwrap_err(),
        AuthError::Invalid
    );
}

#[test]
fn keys_end_and_survive_a_restart_without_their_secrets() {
    let (machine, keyring) = keyring();
    let first = "x".repeat(32);
    keyring
        .create_first(Some(first.clone()), |_| Ok(()))
        .unwrap();
    let mut short = new(&[Scope::Read], &[]);
    short.expires_at_ms = Some(machine.host().clock.now_ms() + 5);
    let (_, short) = keyring.create(short).unwrap();
    assert!(keyring.authenticate(&headers(&short)).is_ok());
    machine.set_now_ms(machine.host().clock.now_ms() + 5);
    assert!(keyring.authenticate(&headers(&short)).is_err());
    let file = String::from_utf8(machine.read(Path::new("/keys.json")).unwrap()).unwrap();
    assert!(!file.contains(&first) && !file.contains(short.rsplit('_').next().unwrap()));
    machine.crash(crate::fs::sim::Crash::LoseAll);
    let (again, is_known) = Keyring::open(&machine.host(), Path::new("/")).unwrap();
    assert!(is_known && again.authenticate(&headers(&first)).is_ok());
}

#[test]
fn keys_are_listed_in_the_order_they_were_made_though_the_clock_goes_back() {
    let (machine, keyring) = keyring();
    let make = |name: &str| {
        machine.set_now_ms(machine.host().clock.now_ms() - 1_000);
        let name = name.into();
        let info = NewKey {
            name,
            ..new(&[Scope::Read], &[])
        };
        keyring.create(info).unwrap().0
    };
    let [_, gone, _] = ["a", "b", "c"].map(make);
    keyring.revoke(&gone.id).unwrap();
    make("d");
    let names = |keyring: &Keyring| keyring.list().into_iter().map(|key| key.name).collect();
    let listed: Vec<_> = names(&keyring);
    assert_eq!(listed, ["a", "c", "d"]);
    let (again, _) = Keyring::open(&machine.host(), Path::new("/")).unwrap();
    assert_eq!(listed, names(&again));
}

#[test]
fn when_a_key_was_used_is_known_to_the_second_and_kept() {
    let (machine, keyring) = keyring();
    let (_, text) = keyring.create(new(&[Scope::Read], &[])).unwrap();
    assert_eq!(keyring.list()[0].last_used_at, None);
    machine.set_now_ms(1_764_000_001_234);
    keyring.authenticate(&headers(&text)).unwrap();
    let used = Some("2025-11-24T16:00:01.000Z".to_owned());
    assert_eq!(keyring.list()[0].last_used_at, used);
    let again = || Keyring::open(&machine.host(), Path::new("/")).unwrap().0;
    assert_eq!(again().list()[0].last_used_at, None, "not kept yet");
    keyring.keep_used().unwrap();
    assert_eq!(again().list()[0].last_used_at, used);
    // Nothing new: the file isn't written again.
    let changes = machine.change_count();
    keyring.keep_used().unwrap();
    assert_eq!(machine.change_count(), changes);
}

#[test]
fn a_key_has_so_many_requests_a_second() {
    let (_, keyring) = keyring();
    let (_, text) = keyring.create(new(&[Scope::Read], &[])).unwrap();
    let principal = keyring.authenticate(&headers(&text)).unwrap();
    let at = Duration::from_millis;
    for _ in 0..4 {
        assert_eq!(principal.admit(at(5000), 4), Ok(()));
    }
    assert_eq!(principal.admit(at(5000), 4), Err(at(250)));
    assert_eq!(principal.admit(at(5249), 4), Err(at(1)));
    assert_eq!(principal.admit(at(5250), 4), Ok(()));
    assert_eq!(principal.admit(at(5250), 4), Err(at(250)));
    assert_eq!(principal.admit(at(5250), 0), Ok(()), "no limit");
    for _ in 0..4 {
        assert_eq!(principal.admit(at(60_000), 4), Ok(()));
    }
    assert_eq!(principal.admit(at(60_000), 4), Err(at(250)));
}

#[test]
fn a_hash_is_64_hexadecimal_digits() {
    assert_eq!(unhex(&"0f".repeat(32)), Some([15; 32]));
    for wrong in ["+f".repeat(32), "0".repeat(63), "ä".repeat(32)] {
        assert_eq!(unhex(&wrong), None, "{wrong}");
    }
}

#[test]
fn a_revoked_key_is_gone_at_once_but_not_the_last_admin() {
    let (_, keyring) = keyring();
    let (admin, _) = keyring.create(new(&[Scope::Admin], &[])).unwrap();
    let (info, text) = keyring.create(new(&[Scope::Read], &[])).unwrap();
    keyring.revoke(&info.id).unwrap();
    assert!(keyring.authenticate(&headers(&text)).is_err());
    assert!(matches!(
        keyring.revoke(&info.id),
        Err(KeyringError::UnknownKey)
    ));
    assert!(matches!(
        keyring.revoke(&admin.id),
        Err(KeyringError::LastAdmin)
    ));
}
