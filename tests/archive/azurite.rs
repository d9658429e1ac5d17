//! Azure's storage as a child process: Azurite, Microsoft's emulator, which the variable
//! `TRIALOG_TEST_AZURITE` names (`azurite-blob`, of npm).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tempfile::TempDir;

use crate::client::Client;
use crate::s3::not_run;

const ACCOUNT: &str = "devstoreaccount1";
/// As Azurite is told, and in base 64.
const KEY: (&str, &str) = ("key of a test", "a2V5IG9mIGEgdGVzdA==");
const CONTAINER: &str = "trialog";

/// Killed when it is dropped.
pub struct Azurite {
    child: Child,
    /// The archive's address there.
    pub url: String,
    /// What tells clients where it is, and who they are.
    pub environment: Vec<(&'static str, String)>,
    _dir: TempDir,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Azurite {
    /// Starts one with an empty container, if there is one here.
    pub fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("TRIALOG_TEST_AZURITE") else {
            not_run("TRIALOG_TEST_AZURITE names no azurite-blob");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0"]);
        command.args([
            "--skipApiVersionCheck",
            "--disableProductStyleUrl",
            "--disableTelemetry",
        ]);
        command.arg("--location").arg(dir.path());
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", KEY.1));
        let (child, address) = listening(&mut command);
        make_container(address);
        Some(Self {
            child,
            url: format!("az://{CONTAINER}/some/where"),
            environment: vec![
                ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
                ("AZURE_STORAGE_ACCOUNT_KEY", KEY.1.into()),
                ("AZURITE_BLOB_STORAGE_URL", format!("http://{address}")),
            ],
            _dir: dir,
        })
    }
}

/// Starts it, and waits until it says where it listens.
fn listening(command: &mut Command) -> (Child, SocketAddr) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.contains("successfully listens"))
        .expect("it listens");
    let (_, address) = line.split_once("://").expect("an address");
    let end = address
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
        .unwrap_or(address.len());
    let address = address[..end].parse().expect("an address");
    // It logs each request.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (child, address)
}

/// Azure's shared key, as its documentation has it.
fn make_container(address: SocketAddr) {
    let now = jiff::Timestamp::now();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let version = "2021-08-06";
    let to_sign = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n\
         /{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.0.as_bytes()).unwrap();
    mac.update(to_sign.as_bytes());
    let signature = base64(&mac.finalize().into_bytes());
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let headers = [
        ("x-ms-date", &*date),
        ("x-ms-version", version),
        ("authorization", &*authorization),
    ];
    let path = format!("/{ACCOUNT}/{CONTAINER}?restype=container");
    let mut client = Client::connect(address).unwrap();
    let answer = client.send("PUT", &path, &headers, b"").unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0, |sum, at| {
            sum << 8 | usize::from(group.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = DIGITS[number >> (18 - 6 * at) & 63];
            text.push(if at > group.len() { '=' } else { digit as char });
        }
    }
    text
}
