//! `trialog bench`: flags into a plan, and what came of it into words.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::error::ErrorKind;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Trust, address};
use super::{Outcome, client_tls, output};
use crate::bench::api::Server;
use crate::bench::audit::audit;
use crate::bench::entries::Entries;
use crate::bench::machine::Machine;
use crate::bench::meter::Watch;
use crate::bench::plan::{Peer, Plan};
use crate::bench::report::{self, AuditJson, Json};
use crate::bench::run;
use crate::bench::target::{Account, Kept};
use crate::bench::verdict::Verdict;
use crate::bench::wire::{Address, Tls};
use crate::fs::real;
use crate::model::Slug;

/// The longest slug that a number still goes behind.
const PREFIX_LEN_MAX: usize = 58;
const SECONDS_MAX: f64 = 86_400.0;

/// Set by the first interrupt; a run ends early then, and says what it has.
static STOP: AtomicBool = AtomicBool::new(false);

/// Measure how much a server takes, or kill one again and again and see that nothing is lost.
///
/// Without --server it makes a store in a temporary folder, starts a server for it, and removes both at
/// the end. The table is of requests that were acknowledged: entries a second, and latencies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trialog bench
  trialog bench --clients 256 --experiments 1000 --against noop --check
  trialog bench --rate 20000 --duration 60 --json result.json
  trialog bench --audit --kills 25
  trialog bench --server http://10.0.0.7:7171 --api-key KEY --experiment load-test
  trialog bench -- --durability relaxed")]
pub struct Args {
    /// Clients, each with one request at a time. With --rate: requests at the same time, at most.
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Connections, each with one request at a time: as many as clients, unless fewer. Clients share
    /// them as a pool then, and waiting for a free one is part of the latency.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Option<u32>,
    /// How many experiments the entries are for, each as often as the others.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    experiments: u32,
    /// Give the n-th experiment 1/n^S of what the first one gets.
    #[arg(long, value_name = "S", value_parser = exponent)]
    zipf: Option<f64>,
    /// The experiment to write to; of more than one the beginning of the names: SLUG-0, SLUG-1, …
    /// [a store of our own: bench]
    #[arg(long, value_name = "SLUG")]
    experiment: Option<Slug>,
    /// Send batches of N entries, not single ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: Option<u32>,
    /// Send N requests a second, whatever the answers do. Latencies count from when a request was
    /// due, so that a stall shows in all those that it held up.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// For how long to measure. With --against: each of both, in turns of some 2 s.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive_seconds)]
    duration: Duration,
    /// For how long to send before that.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,
    /// The entries, one JSON object a line, instead of a mix of sizes from 300 bytes to 25 KB.
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
    /// A server that runs already. Nothing but entries is made there, unless --create is given.
    #[arg(long, value_name = "URL", value_parser = address, requires = "experiment")]
    server: Option<client::Address>,
    #[command(flatten)]
    trust: Trust,
    /// The key for --server.
    #[arg(
        long,
        env = "TRIALOG_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    api_key: Option<String>,
    /// Make the experiments on --server that aren't there; the key must be an admin's.
    #[arg(long, requires = "server")]
    create: bool,
    /// Where the temporary folder is made: on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Give a peer the same work, in turns, and say the ratio.
    #[arg(long, value_name = "PEER", value_enum)]
    against: Option<PeerArg>,
    /// Where redis, nats or postgres is, if it isn't at its usual port on this machine: redis://…,
    /// nats://… (behind it, joined by &: ?replicas=3, each message on so many servers of a cluster;
    /// ?atomic, a batch whole or not at all, with one answer),
    /// postgres://USER@HOST:PORT/DATABASE. What is made there is removed at the end.
    #[arg(
        long,
        env = "TRIALOG_PEER_URL",
        hide_env_values = true,
        value_name = "URL",
        requires = "against"
    )]
    peer_url: Option<String>,
    /// At the end, look for everything that was acknowledged. In a store of our own that is `verify`,
    /// all ids and all bodies; with --server the counts (nobody else may write meanwhile), and 256
    /// entries one by one.
    #[arg(long)]
    check: bool,
    /// Kill the server with SIGKILL at random moments, start it again, and look for every entry. (A
    /// kill is no power cut: what the operating system has survives it.)
    #[arg(long, conflicts_with_all = ["server", "against", "rate", "check", "entry"])]
    audit: bool,
    /// How often it is killed; the moments are spread over --duration.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "audit",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    /// Choose other experiments, and other moments to kill.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write everything that was measured as JSON, raw histogram included; with `-` to stdout, and
    /// the table to stderr.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Flags for the `trialog serve` of our own.
    #[arg(last = true, value_name = "FLAGS", conflicts_with = "server")]
    serve_flags: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PeerArg {
    /// A server that reads the body and answers a constant: as fast as HTTP goes here.
    Noop,
    /// One client that writes and syncs, one after the other, on the same disk, without a server.
    Fdatasync,
    /// Redis Streams, an `XADD` for each entry (a batch: MULTI). Start it with `redis-server
    /// --appendonly yes --appendfsync always`.
    Redis,
    /// JetStream, one stream in files, each message acknowledged (a batch: as many messages). Start
    /// nats-server 2.10 or later with `jetstream { store_dir: DIR, sync_interval: always }` in its
    /// configuration: it can't be asked whether it has that.
    Nats,
    /// PostgreSQL, a prepared INSERT of jsonb for each entry (a batch: one INSERT). Start it with its
    /// defaults (fsync and synchronous_commit are on), and `max_connections` above --connections.
    Postgres,
}

impl From<PeerArg> for Peer {
    fn from(peer: PeerArg) -> Self {
        match peer {
            PeerArg::Noop => Self::Noop,
            PeerArg::Fdatasync => Self::Fdatasync,
            PeerArg::Redis => Self::Redis,
            PeerArg::Nats => Self::Nats,
            PeerArg::Postgres => Self::Postgres,
        }
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    stop_when_asked().context("can't hear signals")?;
    real::raise_descriptor_limit();
    let json = args.json.clone();
    let (is_audit, kills) = (args.audit, args.kills);
    let entries = match &args.entry {
        Some(path) => Entries::read(path)?,
        None => Entries::mix(),
    };
    let plan = plan(args)?;
    if is_audit {
        let audited = audit(&plan, kills, &STOP, &|words| output::words(words))?;
        let words = report::audit_words(&audited);
        let document = AuditJson::of(&plan, &audited, now_ms());
        let is_good = audited.verdict.is_good();
        return tell(&words, &document, json, is_good, &audited.kept);
    }
    if plan.server.is_none() && Machine::this(&plan.dir).is_in_memory() {
        let dir = plan.dir.display();
        output::words(format_args!(
            "trialog: {dir} is in memory, where a sync costs nothing: give --dir a folder on a disk"
        ));
    }
    let outcome = run::run(&plan, &entries, &STOP, &watch())?;
    let words = report::table(&plan, &outcome);
    let is_kept = |peer: &Account| peer.kept.is_none_or(Kept::is_good);
    let is_good = outcome.verdict.as_ref().is_none_or(Verdict::is_good)
        && outcome.peer.as_ref().is_none_or(is_kept);
    let document = Json::of(&plan, &outcome, now_ms());
    tell(&words, &document, json, is_good, &outcome.kept)
}

fn now_ms() -> u64 {
    real::host().clock.now_ms()
}

fn plan(args: Args) -> Result<Plan> {
    let clients = args.clients as usize;
    let connections = args.connections.map_or(clients, |count| count as usize);
    if connections > clients {
        wrong("more --connections than --clients: the others would never be used");
    }
    let against = args.against.map(Peer::from);
    let is_foreign = against.is_some_and(Peer::is_foreign);
    if args.peer_url.is_some() && !is_foreign {
        wrong("--peer-url is for redis, nats and postgres");
    }
    if args.rate.is_some() && is_foreign {
        wrong("--rate can't be kept with redis, nats and postgres");
    }
    let server = match (args.server, args.api_key) {
        (None, _) => None,
        (Some(_), None) => wrong("--server needs --api-key (or TRIALOG_API_KEY)"),
        (Some(server), Some(api_key)) => Some(find(&server, &args.trust, api_key)?),
    };
    Ok(Plan {
        clients,
        connections,
        experiments: slugs(args.experiment, args.experiments)?,
        zipf: args.zipf,
        batch: args.batch.map(|count| count as usize),
        rate: args.rate,
        duration: args.duration,
        warm_up: args.warm_up,
        entry: args.entry,
        seed: args.seed,
        against,
        peer_url: args.peer_url,
        check: args.check,
        serve_flags: args.serve_flags,
        dir: args.dir,
        server,
        may_create: args.create,
    })
}

/// One experiment has the name that was given; more have it as their beginning.
fn slugs(name: Option<Slug>, count: u32) -> Result<Vec<Slug>> {
    let name = match name {
        Some(name) => name,
        None => Slug::parse("bench")?,
    };
    if count == 1 {
        return Ok(vec![name]);
    }
    if name.as_str().len() > PREFIX_LEN_MAX {
        wrong("--experiment is too long for a number behind it");
    }
    let numbered = (0..count).map(|n| Ok(Slug::parse(&format!("{name}-{n}"))?));
    numbered.collect()
}

fn find(server: &client::Address, trust: &Trust, api_key: String) -> Result<Server> {
    let authority = server.authority();
    let host = authority.host();
    let place = (host, server.port());
    let found = place.to_socket_addrs().ok().and_then(|mut all| all.next());
    let socket = found.with_context(|| format!("there is no host {host}"))?;
    let tls = match server.is_tls() {
        true => {
            let (config, name) = client_tls::client(host, trust.ca())?;
            Some(Tls { config, name })
        }
        false => None,
    };
    Ok(Server {
        address: Address { socket, tls },
        host: authority.to_string(),
        api_key,
    })
}

/// Gives the result: words for people, and everything as JSON if that was asked for.
fn tell(
    words: &str,
    document: &impl Serialize,
    json: Option<PathBuf>,
    is_good: bool,
    kept: &Option<String>,
) -> Result<Outcome> {
    let words = words.trim_end();
    match json {
        None => output::data(words)?,
        Some(path) if path.as_os_str() == "-" => {
            output::words(words);
            output::data(serde_json::to_string(document)?)?;
        }
        Some(path) => {
            output::data(words)?;
            let written = std::fs::write(&path, serde_json::to_string(document)? + "\n");
            written.with_context(|| format!("can't write {}", path.display()))?;
        }
    }
    if let Some(path) = kept {
        output::words(format_args!("trialog: the store is kept in {path}"));
    }
    Ok(match is_good {
        true => Outcome::Done,
        false => Outcome::FoundDamage,
    })
}

/// Shows each second on stderr: in one line that changes on a terminal, in lines elsewhere.
fn watch() -> Watch {
    let is_terminal = std::io::stderr().is_terminal();
    Rc::new(move |name, second| {
        let words = report::second_words(name, second);
        match is_terminal {
            // Back to the line's beginning, the new text, and what is left of the old one cleared.
            true => {
                let _unseen = write!(std::io::stderr(), "\r{words}\x1b[K\r");
            }
            false => output::words(words),
        }
    })
}

/// The first signal ends the run early; a second one ends everything.
fn stop_when_asked() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            for is_second in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if is_second {
                    // A server of our own ends with us.
                    std::process::exit(1);
                }
                STOP.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}

fn wrong(words: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{words}\n")).exit()
}

fn exponent(text: &str) -> Result<f64, String> {
    let exponent = text.parse::<f64>().ok();
    let exponent = exponent.filter(|exponent| *exponent > 0.0 && *exponent <= 10.0);
    exponent.ok_or_else(|| "it is a number above 0 and up to 10".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| format!("it is a number of seconds up to {SECONDS_MAX}"))
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    let is_some = !seconds.is_zero();
    is_some
        .then_some(seconds)
        .ok_or_else(|| "it is more than 0".into())
}
