//! Google Cloud Storage as a child process. Google ships no emulator of it. Its XML API, which is what our client
//! speaks, is S3's but for signatures and some headers; so a server of that stands for it which asks for no signature:
//! moto (of PyPI), in the folder that the variable `TRIALOG_TEST_MOTO` names. It is shown a service account's key and
//! takes any.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::client::Client;
use crate::s3::{BUCKET, not_run};

/// Killed when it is dropped.
pub struct Google {
    child: Child,
    /// The archive's address there.
    pub url: String,
    /// What tells clients where it is, and who they are.
    pub environment: Vec<(&'static str, String)>,
    _dir: TempDir,
}

impl Drop for Google {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Google {
    /// Starts one with an empty bucket, if there is one here.
    pub fn start() -> Option<Self> {
        let Some(packages) = std::env::var_os("TRIALOG_TEST_MOTO") else {
            not_run("TRIALOG_TEST_MOTO names no folder with moto");
            return None;
        };
        let python = |args: &[&str]| {
            let mut command = Command::new("python3");
            command.args(args).env("PYTHONPATH", &packages);
            command.stdin(Stdio::null());
            command
        };
        let made = python(&["-c", MAKE_KEY]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut command = python(&["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        let (child, address) = listening(&mut command);
        let mut client = Client::connect(address).unwrap();
        let answer = client.send("PUT", &format!("/{BUCKET}"), &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let account = json!({
            "private_key": String::from_utf8(made.stdout).unwrap(),
            "private_key_id": "1",
            "client_email": "appliance@example.com",
            "gcs_base_url": format!("http://{address}"),
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("account.json");
        std::fs::write(&path, account.to_string()).unwrap();
        Some(Self {
            child,
            url: format!("gs://{BUCKET}/some/where"),
            environment: vec![
                ("GOOGLE_SERVICE_ACCOUNT", path.to_str().unwrap().into()),
                ("GOOGLE_ALLOW_HTTP", "true".into()),
            ],
            _dir: dir,
        })
    }
}

/// A key of a service account signs what it shows, and nobody asks Google for a token.
const MAKE_KEY: &str = "
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
print(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()).decode())
";

/// Starts it, and waits until it says where it listens.
fn listening(command: &mut Command) -> (Child, SocketAddr) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("Running on http://")?.1.parse().ok())
        .expect("it listens");
    // It logs each request.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (child, address)
}
