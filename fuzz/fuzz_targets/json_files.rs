//! Any bytes as `FORMAT`, `experiment.json` and `keys.json`: what is taken comes back the same when
//! it is written anew, and a flipped bit in that is found or changes nothing.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use trialog::auth::{Keyring, NewKey, Scope};
use trialog::experiment::definition::{self, DefinitionFile};
use trialog::experiment::folder::read_store_id;
use trialog::fs::sim::SimMachine;
use trialog::fs::{parent, replace_file};
use trialog::model::VARIANTS_MAX;
use trialog_fuzz::forge;

fuzz_target!(|input: (u16, &[u8])| {
    let (bit, bytes) = input;
    let mut forged = bytes.to_vec();
    forge::json(&mut forged);
    for bytes in [bytes, &forged] {
        check_format(bytes);
        check_definition(bytes, usize::from(bit));
        check_keys(bytes);
    }
});

fn machine_with(path: &str, bytes: &[u8]) -> SimMachine {
    let machine = SimMachine::new(1, 512);
    let disk = machine.host().disk;
    let path = Path::new(path);
    if parent(path) != Path::new("/") {
        disk.create_dir(&parent(path)).expect("a new disk");
    }
    replace_file(&*disk, path, bytes).expect("a new disk");
    machine
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

fn check_format(bytes: &[u8]) {
    let machine = machine_with("/FORMAT", bytes);
    if let Ok(found) = read_store_id(&*machine.host().disk, Path::new("/")) {
        // Members that aren't known are passed over, whatever is in them: so no `Value`.
        let said: Format = serde_json::from_slice(bytes).expect("it was read as JSON");
        assert!(found.is_some() && said.format <= 1);
    }
}

fn check_definition(bytes: &[u8], bit: usize) {
    let machine = machine_with("/x/experiment.json", bytes);
    let disk = machine.host().disk;
    let dir = Path::new("/x");
    let Ok(read) = DefinitionFile::read(&*disk, dir) else {
        return;
    };
    let incarnation = read.incarnation().expect("checked when it was read");
    let _checked = definition::check(&read.definition, VARIANTS_MAX);
    read.write(&*disk, dir).expect("a simulated disk");
    let again = DefinitionFile::read(&*disk, dir).expect("written by us");
    assert_eq!(shown(&again), shown(&read));
    assert_eq!(again.incarnation().expect("written by us"), incarnation);

    let path = dir.join("experiment.json");
    let mut flipped = machine.read(&path).expect("written by us");
    let bit = bit % (flipped.len() * 8);
    flipped[bit / 8] ^= 1 << (bit % 8);
    machine.overwrite(&path, &flipped).expect("it is there");
    if let Ok(flipped) = DefinitionFile::read(&*disk, dir) {
        assert_eq!(shown(&flipped), shown(&read), "bit {bit}");
    }
}

fn shown(file: &DefinitionFile) -> Value {
    serde_json::to_value(file).expect("it was read from JSON")
}

fn check_keys(bytes: &[u8]) {
    let machine = machine_with("/keys.json", bytes);
    let host = machine.host();
    let Ok((keyring, is_known)) = Keyring::open(&host, Path::new("/")) else {
        return;
    };
    assert!(is_known);
    // What serde_json's `Value` can't hold stands in members that are passed over.
    if let Ok(value) = serde_json::from_slice::<Value>(bytes)
        && let Some(keys) = value["keys"].as_array()
    {
        let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        // A key as a list is read by its places; no file of ours has one.
        let mut keys = keys.iter().filter(|key| key.is_object());
        assert!(keys.all(|key| key["sha256"].as_str().is_some_and(is_hash)));
    }

    let listed = serde_json::to_value(keyring.list()).expect("plain data");
    let new = NewKey {
        name: "new".into(),
        scopes: vec![Scope::Read],
        experiments: vec!["a*".into()],
        expires_at_ms: None,
    };
    let Ok((info, _)) = keyring.create(new) else {
        return;
    };
    let (again, _) = Keyring::open(&host, Path::new("/")).expect("written by us");
    let relisted = serde_json::to_value(again.list()).expect("plain data");
    let (relisted, listed) = (relisted.as_array(), listed.as_array());
    let (Some((last, before)), Some(listed)) = (relisted.and_then(|l| l.split_last()), listed)
    else {
        panic!("lists");
    };
    assert_eq!(before, listed);
    assert_eq!(last["id"], Value::from(info.id));
}
