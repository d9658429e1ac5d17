//! Group commit: what a batch costs, whoever is in it.

use trialog::fs::sim::Op;

use crate::rig::{Rig, entry};
use crate::scene::JOURNAL;

#[test]
fn a_group_commit_takes_one_write_and_one_sync_whatever_the_number_of_experiments() {
    for count in [1, 10, 1000] {
        let names: Vec<String> = (0..count).map(|n| format!("e{n}")).collect();
        let mut rig = Rig::new(1);
        rig.journal_bytes = 4 << 20;
        rig.start().unwrap();
        for name in &names {
            rig.create(name);
        }
        let all = |n| {
            let one = |name: &String| (name.clone(), vec![entry("A", n, 100)]);
            names.iter().map(one).collect::<Vec<_>>()
        };
        // The first entry of a segment, with its header, and one of many.
        for n in 0..2 {
            let groups = all(n);
            let groups: Vec<_> = groups.iter().map(|(k, v)| (&**k, v.clone())).collect();
            rig.machine.record();
            assert_eq!(rig.append(&groups), Ok(()));
            let recorded = rig.machine.recorded().into_iter();
            let changes =
                recorded.filter(|(op, _)| !matches!(op, Op::Open | Op::Read | Op::List | Op::Map));
            let changes: Vec<(Op, bool)> = changes
                .map(|(op, path)| (op, path.ends_with(JOURNAL)))
                .collect();
            assert_eq!(changes, [(Op::Write, true), (Op::Sync, true)], "{count}");
        }
        rig.crash(trialog::fs::sim::Crash::LoseAll);
        rig.check();
    }
}
