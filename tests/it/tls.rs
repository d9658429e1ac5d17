//! TLS: real handshakes with the real server, and the commands that speak it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::server::{PATIENCE, Server, arg, trialog};

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Somebody who signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pair(&self) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        Pair {
            cert: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

/// A server with TLS, and its files.
struct Secured {
    server: Server,
    ca: Authority,
    cert: PathBuf,
    key: PathBuf,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Secured {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new();
        let path = |name: &str| dir.path().join(name);
        let (cert, key, ca_file) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
        fs::write(&ca_file, ca.pem()).unwrap();
        write(&ca.pair(), &cert, &key);
        let mut all = vec!["--tls-cert", arg(&cert), "--tls-key", arg(&key)];
        for given in args {
            all.push(if *given == "CA" { arg(&ca_file) } else { given });
        }
        let server = Server::start(&path("s"), &all);
        Self {
            server,
            ca,
            cert,
            key,
            ca_file,
            _dir: dir,
        }
    }

    /// A connection that has shaken hands; with a certificate of its own if there is one.
    fn connect(&self, asked: &Asked) -> io::Result<Stream> {
        let ca = asked.ca.clone().unwrap_or(self.ca.pem());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&ca)).unwrap();
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&asked.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &asked.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                let chain = vec![certificate(&pair.cert)];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = asked.protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, self.tcp());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to the admin's request with this head.
    fn ask(&self, head: &[u8]) -> String {
        let mut stream = self.connect(&Asked::default()).unwrap();
        stream.write_all(head).unwrap();
        let rest = format!(
            "x-api-key: {}\r\nconnection: close\r\n\r\n",
            self.server.key
        );
        stream.write_all(rest.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn hang_up(&self) {
        let pid = Pid::from_raw(self.server.pid() as i32).expect("not zero");
        kill_process(pid, Signal::HUP).expect("it runs");
    }

    /// The certificate that a new connection gets.
    fn shown(&self, ca: &Authority) -> CertificateDer<'static> {
        let asked = Asked {
            ca: Some(ca.pem()),
            ..Asked::default()
        };
        let stream = self.connect(&asked).expect("a handshake");
        stream.conn.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// How a client asks for a connection.
struct Asked {
    versions: Vec<&'static SupportedProtocolVersion>,
    protocols: Vec<&'static [u8]>,
    ca: Option<String>,
    pair: Option<Pair>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            versions: vec![&TLS12, &TLS13],
            protocols: Vec::new(),
            ca: None,
            pair: None,
        }
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn write(pair: &Pair, cert: &Path, key: &Path) {
    fs::write(cert, &pair.cert).unwrap();
    fs::write(key, &pair.key).unwrap();
}

/// Asks whether it is well, by HTTP/1.1.
fn health(stream: &mut (impl Read + Write)) -> io::Result<String> {
    stream.write_all(HEALTH)?;
    let mut head = [0; 15];
    stream.read_exact(&mut head)?;
    let head = String::from_utf8_lossy(&head).into_owned();
    // The rest of the answer: it is small, and comes as one record.
    let mut rest = [0; 4096];
    let _len = stream.read(&mut rest)?;
    Ok(head)
}

#[test]
fn a_session_over_tls_stays_there() {
    let secured = Secured::start(&[]);
    let mut stream = secured.connect(&Asked::default()).unwrap();
    let body = format!("key={}", secured.server.key);
    let request = format!(
        "POST /ui/sign-in HTTP/1.1\r\nhost: localhost\r\norigin: https://localhost\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // It may close without a word of TLS.
    let _end = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(answer.contains("SameSite=Strict; Secure\r\n"), "{answer}");
}

#[test]
fn both_versions_and_both_protocols_are_spoken() {
    let secured = Secured::start(&[]);
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        for protocol in [&b"http/1.1"[..], b"h2"] {
            let asked = Asked {
                versions: vec![version],
                protocols: vec![protocol],
                ..Asked::default()
            };
            let mut stream = secured.connect(&asked).unwrap();
            assert_eq!(stream.conn.protocol_version(), Some(expected));
            assert_eq!(stream.conn.alpn_protocol(), Some(protocol));
            if protocol == b"http/1.1" {
                assert_eq!(health(&mut stream).unwrap(), "HTTP/1.1 200 OK");
                continue;
            }
            // The preface and empty settings; the answer is a frame of settings.
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .unwrap();
            let mut frame = [0; 4];
            stream.read_exact(&mut frame).unwrap();
            assert_eq!(frame[3], 4, "SETTINGS comes first");
        }
    }
    let both = Asked {
        protocols: vec![b"http/1.1", b"h2"],
        ..Asked::default()
    };
    let stream = secured.connect(&both).unwrap();
    assert_eq!(
        stream.conn.alpn_protocol(),
        Some(&b"h2"[..]),
        "the server chooses"
    );
}

#[test]
fn whoever_trusts_another_or_speaks_no_tls_ends_cleanly() {
    let secured = Secured::start(&[]);
    let asked = Asked {
        ca: Some(Authority::new().pem()),
        ..Asked::default()
    };
    let error = secured.connect(&asked).expect_err("another's certificate");
    assert!(
        error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    let mut plain = secured.tcp();
    plain.write_all(HEALTH).unwrap();
    let mut rest = Vec::new();
    match plain.read_to_end(&mut rest) {
        // An alert, and no more.
        Ok(len) => assert!(len <= 7 && !rest.starts_with(b"HTTP"), "{rest:?}"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    let mut stream = secured.connect(&Asked::default()).unwrap();
    assert_eq!(health(&mut stream).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn a_client_needs_a_certificate_where_one_is_wanted() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]);
    let with = |pair| Asked {
        pair,
        ..Asked::default()
    };
    let stranger = Authority::new().pair();
    for pair in [None, Some(stranger)] {
        // With 1.3 the client learns of it after its own handshake.
        let met = secured
            .connect(&with(pair))
            .and_then(|mut stream| health(&mut stream));
        assert!(met.is_err(), "{met:?}");
    }
    let mut stream = secured.connect(&with(Some(secured.ca.pair()))).unwrap();
    assert_eq!(health(&mut stream).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn a_handshake_that_stalls_is_ended_and_holds_nobody_up() {
    let secured = Secured::start(&["--handshake-timeout", "200ms"]);
    let mut silent = secured.tcp();
    let mut half = secured.tcp();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    let mut stream = secured.connect(&Asked::default()).unwrap();
    assert_eq!(health(&mut stream).unwrap(), "HTTP/1.1 200 OK");
    let mut rest = Vec::new();
    assert_eq!(silent.read_to_end(&mut rest).unwrap(), 0);
    assert!(half.read_to_end(&mut rest).is_ok_and(|len| len == 0));
    let metrics = secured.ask(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n");
    let met = "trialog_limits_met_total{limit=\"handshake\"} 2";
    assert!(metrics.contains(met), "{metrics}");
    // Those that are through stay.
    assert_eq!(health(&mut stream).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn a_stalled_handshake_counts_as_a_connection() {
    let secured = Secured::start(&["--handshake-timeout", "1h", "--max-connections", "1"]);
    let silent = secured.tcp();
    let mut waits = secured.tcp();
    waits
        .set_read_timeout(Some(std::time::Duration::from_millis(200)))
        .unwrap();
    waits.write_all(HEALTH).unwrap();
    // Not even its rubbish is answered, since it isn't accepted.
    let error = waits.read(&mut [0; 1]).expect_err("nothing comes");
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock), "{error}");
    drop(silent);
    waits.set_read_timeout(Some(PATIENCE)).unwrap();
    let met = waits.read(&mut [0; 8]);
    assert!(
        !matches!(&met, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
        "{met:?}"
    );
    // Nor does one keep a server from its end.
    let stalled = secured.tcp();
    let (status, _) = secured.server.stop();
    assert!(status.success());
    drop(stalled);
}

#[test]
fn a_new_certificate_is_taken_when_told_and_when_it_changes() {
    let secured = Secured::start(&[]);
    let mut open = secured.connect(&Asked::default()).unwrap();
    let first = secured.shown(&secured.ca);
    // Half a pair, and then rubbish: the old one stays.
    fs::write(&secured.cert, secured.ca.pair().cert).unwrap();
    secured.hang_up();
    let line = secured
        .server
        .wait_until_said("the certificate stays as it was");
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(secured.shown(&secured.ca), first);
    // A whole one, told.
    let other = Authority::new();
    write(&other.pair(), &secured.cert, &secured.key);
    secured.hang_up();
    secured
        .server
        .wait_until_said("certificate and key read again");
    let second = secured.shown(&other);
    assert_ne!(second, first);
    // And one that isn't told.
    let third = Authority::new();
    write(&third.pair(), &secured.cert, &secured.key);
    let since = std::time::Instant::now();
    while secured
        .server
        .said()
        .matches("certificate and key read again")
        .count()
        < 2
    {
        assert!(since.elapsed() < PATIENCE, "{}", secured.server.said());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_ne!(secured.shown(&third), second);
    assert_eq!(
        health(&mut open).unwrap(),
        "HTTP/1.1 200 OK",
        "it stays open"
    );
}

#[test]
fn commands_speak_https_and_trust_only_whom_they_are_told() {
    let secured = Secured::start(&[]);
    let url = format!("https://localhost:{}", secured.server.address.port());
    let list = |ca: Option<&Path>| {
        let mut command = trialog();
        command.args([
            "experiment",
            "list",
            "--server",
            &url,
            "--api-key",
            &secured.server.key,
        ]);
        if let Some(ca) = ca {
            command.env("TRIALOG_CA", ca);
        }
        command.output().unwrap()
    };
    let output = list(Some(&secured.ca_file));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("demo"),
        "{output:?}"
    );
    let report = trialog()
        .args(["report", "--server", &url, "--api-key", &secured.server.key])
        .args(["--experiment", "demo", "--ca", arg(&secured.ca_file)])
        .output()
        .unwrap();
    assert_eq!(report.status.code(), Some(0), "{report:?}");
    let stranger = secured.ca_file.with_file_name("other.pem");
    fs::write(&stranger, Authority::new().pem()).unwrap();
    for ca in [Some(stranger.as_path()), None] {
        let output = list(ca);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("no TLS with localhost") || said.contains("no certificates"),
            "{said}"
        );
    }
    let output = secured.server.command(&["experiment", "list"]);
    assert_eq!(output.status.code(), Some(1), "plain: {output:?}");
}

#[test]
fn the_load_generator_speaks_https_to_whom_it_trusts() {
    let secured = Secured::start(&[]);
    let url = format!("https://localhost:{}", secured.server.address.port());
    let load = |ca: &Path| {
        let mut command = trialog();
        command.args(["bench", "--server", &url, "--api-key", &secured.server.key]);
        command.args(["--experiment", "demo", "--clients", "4", "--ca", arg(ca)]);
        // Answers are larger than what goes into one record.
        command.args(["--batch", "2000", "--duration", "0.5", "--warm-up", "0"]);
        command.args(["--check", "--json", "-"]).output().unwrap()
    };
    let output = load(&secured.ca_file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let acknowledged = found["results"][0]["entries"].as_u64().unwrap();
    let described = secured.ask(b"GET /experiment/demo HTTP/1.1\r\nhost: localhost\r\n");
    assert!(acknowledged >= 2000, "{found}");
    assert!(
        described.contains(&format!("\"count\":{acknowledged},")),
        "{described} {found}"
    );
    let stranger = secured.ca_file.with_file_name("other.pem");
    fs::write(&stranger, Authority::new().pem()).unwrap();
    let output = load(&stranger);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("invalid peer certificate"), "{said}");
}
