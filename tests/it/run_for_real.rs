//! The README's section 'Run it for real', pasted word for word into a machine with systemd.

use std::fs;
use std::time::{Duration, Instant};

use crate::faults::not_run;
use crate::machine::Machine;
use crate::package::packages;
use crate::server::PATIENCE;

/// Read as it runs: so a change of the page alone compiles nothing.
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// The blocks of shell lines in the section, as they stand there, up to those for containers.
fn blocks(readme: &str) -> Vec<&str> {
    let (_, section) = readme.split_once("\n## Run it for real\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (section, _) = section.split_once("\nIn a container").unwrap();
    let blocks = section.split("\n```sh\n").skip(1);
    blocks
        .map(|rest| rest.split_once("\n```\n").unwrap().0)
        .collect()
}

#[test]
fn the_readme_runs_word_for_word() {
    let (packages, machine) = match packages().and_then(|made| Ok((made, Machine::boot()?))) {
        Ok(both) => both,
        Err(reason) => return not_run(&reason),
    };
    let host = machine.shared.path();
    fs::copy(&packages.first, host.join("trialog_first.deb")).unwrap();
    fs::copy(&packages.next, host.join("next.deb")).unwrap();
    let readme = fs::read_to_string(README).unwrap();
    let blocks = blocks(&readme);
    assert_eq!(blocks.len(), 8, "{blocks:?}");
    // One shell reads all of them: what one block sets, the next ones use. Between them only what the text
    // says that the operator has done: the package lies there, and then the next one in its place.
    let mut lines = String::from("mv /srv/host/trialog_first.deb .\n");
    for (at, block) in blocks.iter().enumerate() {
        if at + 1 == blocks.len() {
            lines += "rm trialog_*.deb; mv /srv/host/next.deb trialog_next.deb\n";
        }
        fs::write(host.join(format!("block-{at}.sh")), block).unwrap();
        lines += &format!(". /srv/host/block-{at}.sh > /srv/host/printed-{at}\n");
    }
    // Which command failed, if one does.
    machine.get(&format!("set -x; {lines}"));
    let printed = |at: usize| fs::read_to_string(host.join(format!("printed-{at}"))).unwrap();

    assert!(printed(1).contains(r#""status":"ok""#), "{}", printed(1));
    let answer = printed(2);
    let (_, id) = answer.split_once(r#""logId":""#).expect("it was stored");
    let (id, _) = id.split_once('"').unwrap();
    // `systemctl reload` sends a signal and doesn't wait for what it does: what was printed may be too early.
    wait_for(&machine, "journalctl -u trialog", |log| {
        log.contains("settings read again")
    });
    let log = machine.get("journalctl -u trialog");
    assert!(!log.contains("ERROR"), "{log}");
    let state = "systemctl show --property=ActiveState,User,NRestarts --value trialog";
    let state = machine.get(state);
    let mut state: Vec<&str> = state.lines().collect();
    state.sort_unstable();
    assert_eq!(state, ["0", "active", "trialog"]);
    let version = machine.get("dpkg-query -W -f '${Version}' trialog");
    assert!(version.ends_with("+next"), "{version}");
    // Through TLS, with the key that was kept, from the store that was restored.
    let ask = r#"curl -fsS --cacert /etc/trialog/cert.pem -H "x-api-key: $(cat trialog-admin.key)" https://localhost:7171"#;
    let entry = machine.get(&format!("{ask}/experiment/search-ranker/log/{id}"));
    assert!(entry.contains(r#""latency_ms":123"#), "{entry}");
    assert_eq!(
        machine.get("stat -c %U /var/lib/trialog/keys.json"),
        "trialog"
    );
    machine.get("test -d /var/lib/trialog-before");
    wait_for_scrape(&machine);
}

/// Until Prometheus has read the metrics.
fn wait_for_scrape(machine: &Machine) {
    let ask = r#"curl -fsS -G http://localhost:9090/api/v1/query --data-urlencode 'query=up{job="trialog"}'"#;
    wait_for(machine, ask, |answer| {
        let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        answer["data"]["result"][0]["value"][1] == "1"
    });
}

/// Until what these lines print there is as it should be.
fn wait_for(machine: &Machine, lines: &str, is_there: impl Fn(&str) -> bool) {
    let since = Instant::now();
    loop {
        let printed = machine.get(lines);
        if is_there(&printed) {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{printed}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
