//! `trialog serve`: runs the appliance.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{ArgAction, CommandFactory, ValueEnum};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::human::{millis, seconds, size};
use super::journal::{self, Where};
use super::settings::{self, Settings};
use super::supervisor::Supervisor;
use super::words::{Form, Level};
use super::{Cli, Outcome, child, first, output, reload, tls_files};
#[cfg(feature = "archive")]
use crate::archive::{
    Archive,
    keeper::Keeper,
    read_through::{READERS_MAX, ReadThrough},
};
use crate::auth::Keyring;
use crate::experiment::repeats::Window;
use crate::experiment::{Store, StoreHealth, StoreOptions, keep_retaining};
use crate::fs::real;
use crate::http::{AppState, Limits, serve_tls};
use crate::model::Durability;

/// Descriptors kept for files; connections may have the rest, and always some.
const FILE_DESCRIPTORS: u64 = 1008;
const CONNECTIONS_MIN: u64 = 16;
/// How often it is written down when keys were last used.
const KEEP_USED_EVERY: Duration = Duration::from_secs(60);
/// Threads for what blocks, at most.
const BLOCKING_THREADS: usize = 16;
const YEAR: Duration = Duration::from_secs(31_536_000);

/// Run the appliance.
///
/// On an empty folder it makes a store, the first admin key (in DIR/admin.key) and the
/// experiment `demo` with the variants A and B.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog serve --data /var/lib/trialog --listen 127.0.0.1:7171")]
pub struct Args {
    /// A TOML file with settings: each is named as its flag, with _ for -. Flags go over the environment,
    /// that goes over the file, and that over the defaults.
    #[arg(long, env = "TRIALOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print all settings as such a file, with where each came from, and end.
    #[arg(long)]
    print_config: bool,
    /// The store's folder.
    #[arg(
        long,
        env = "TRIALOG_DATA",
        value_name = "DIR",
        default_value = "trialog-data"
    )]
    data: PathBuf,
    /// The address to listen on.
    #[arg(
        long,
        env = "TRIALOG_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7171"
    )]
    listen: SocketAddr,
    /// What an acknowledgement means: on stable storage, or with the operating system.
    #[arg(long, env = "TRIALOG_DURABILITY", value_enum, default_value_t = DurabilityArg::Sync)]
    durability: DurabilityArg,
    /// A segment of this many bytes is sealed and a new one begun.
    #[arg(long, env = "TRIALOG_SEGMENT_BYTES", value_name = "BYTES", default_value = "64MiB",
        value_parser = size(4096..=1 << 31))]
    segment_bytes: u64,
    /// Where an entry is before it is acknowledged: in this store alone (`local`), or on most of the servers
    /// of a NATS JetStream cluster that several nodes share: nats://HOST:PORT,HOST:PORT,…
    #[arg(
        long,
        env = "TRIALOG_JOURNAL",
        value_name = "WHERE",
        default_value = "local"
    )]
    journal: Where,
    #[cfg(feature = "nats")]
    #[command(flatten)]
    stream: journal::StreamArgs,
    /// The size up to which each of the journal's two files grows.
    #[arg(long, env = "TRIALOG_JOURNAL_BYTES", value_name = "BYTES", default_value = "64MiB",
        value_parser = size(1 << 20..=1 << 32))]
    journal_bytes: u64,
    /// The largest body of one entry.
    #[arg(long, env = "TRIALOG_MAX_BODY", value_name = "BYTES", default_value = "1MiB",
        value_parser = size(1024..=1 << 28))]
    max_body: u64,
    /// The largest body of a batch.
    #[arg(long, env = "TRIALOG_MAX_BATCH", value_name = "BYTES", default_value = "64MiB",
        value_parser = size(1024..=1 << 29))]
    max_batch: u64,
    /// How deep an entry may be nested, its own object included; 400 above.
    #[arg(long, env = "TRIALOG_MAX_NESTING", value_name = "LEVELS", default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(1..=128))]
    max_nesting: u16,
    /// Variants of an experiment, defined or met; further ones are answered 400.
    #[arg(long, env = "TRIALOG_MAX_VARIANTS", value_name = "COUNT", default_value_t = 1000,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_variants: u16,
    /// Names of metrics in an experiment's figures and reports, the first ones in its log; values of
    /// others are counted.
    #[arg(long, env = "TRIALOG_METRICS_LIMIT", value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    metrics_limit: u16,
    /// Bytes of requests in flight at once; further ones are answered 503.
    #[arg(long, env = "TRIALOG_INFLIGHT_BYTES", value_name = "BYTES", default_value = "256MiB",
        value_parser = size(1 << 20..=u64::MAX))]
    inflight_bytes: u64,
    /// Requests that are worked on at once; further ones are answered 503.
    #[arg(long, env = "TRIALOG_MAX_REQUESTS", value_name = "COUNT", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: u32,
    /// Requests that may wait for one experiment; further ones are answered 503.
    #[arg(long, env = "TRIALOG_MAILBOX", value_name = "COUNT", default_value_t = 8192,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    mailbox: u32,
    /// An experiment that nobody uses leaves memory after this time.
    #[arg(long, env = "TRIALOG_IDLE_TIMEOUT", value_name = "TIME", default_value = "60s",
        value_parser = seconds(Duration::from_secs(1), YEAR))]
    idle_timeout: Duration,
    /// For so long an idempotency key is remembered.
    #[arg(long, env = "TRIALOG_IDEMPOTENCY_WINDOW", value_name = "TIME", default_value = "1d",
        value_parser = seconds(Duration::from_secs(1), YEAR))]
    idempotency_window: Duration,
    /// Idempotency keys that each experiment remembers: its last ones.
    #[arg(long, env = "TRIALOG_IDEMPOTENCY_ENTRIES", value_name = "COUNT", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    idempotency_entries: u32,
    /// With less than this free on the disk, entries are answered 507.
    #[arg(long, env = "TRIALOG_MIN_FREE", value_name = "BYTES", default_value = "256MiB",
        value_parser = size(0..=u64::MAX))]
    min_free: u64,
    /// Seconds between two looks for what no experiment's retention keeps any more.
    #[arg(long, env = "TRIALOG_RETENTION_INTERVAL", value_name = "SECONDS", default_value = "60s",
        value_parser = seconds(Duration::from_secs(1), Duration::from_secs(86_400)))]
    retention_interval: Duration,
    /// Sealed segments are copied to this place: s3://BUCKET/PREFIX, gs://…, az://CONTAINER/… or
    /// file:///FOLDER, with credentials from the environment. What isn't there whole is not dropped here.
    #[cfg(feature = "archive")]
    #[arg(long, env = "TRIALOG_ARCHIVE", value_name = "URL")]
    archive: Option<String>,
    /// Local copies of archived segments go, the oldest first, while sealed segments have more than this here;
    /// queries read those in the archive. Without it all stay.
    #[cfg(feature = "archive")]
    #[arg(long, env = "TRIALOG_ARCHIVE_LOCAL_BYTES", value_name = "BYTES", requires = "archive",
        value_parser = size(0..=u64::MAX))]
    archive_local_bytes: Option<u64>,
    /// So much of what queries read in the archive stays in memory.
    #[cfg(feature = "archive")]
    #[arg(long, env = "TRIALOG_ARCHIVE_CACHE_BYTES", value_name = "BYTES", default_value = "64MiB",
        value_parser = size(0..=1 << 36))]
    archive_cache_bytes: u64,
    /// Connections at the same time; further ones wait.
    #[arg(long, env = "TRIALOG_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_connections: u32,
    /// The longest path with its query; 414 above.
    #[arg(long, env = "TRIALOG_MAX_URL", value_name = "BYTES", default_value = "8KiB",
        value_parser = size(256..=1 << 16))]
    max_url: u64,
    /// Names and values of a request's headers; 431 above.
    #[arg(long, env = "TRIALOG_MAX_HEADERS", value_name = "BYTES", default_value = "32KiB",
        value_parser = size(1024..=1 << 20))]
    max_headers: u64,
    /// Connections of one peer address at the same time; further ones are answered 503 and closed.
    #[arg(long, env = "TRIALOG_MAX_PEER_CONNECTIONS", value_name = "COUNT", default_value_t = 9000,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_peer_connections: u32,
    /// Requests of one key in a second, a batch being one; further ones are answered 429. 0 for any
    /// number.
    #[arg(long, env = "TRIALOG_KEY_RATE", value_name = "COUNT", default_value_t = 0,
        value_parser = clap::value_parser!(u32))]
    key_rate: u32,
    /// Requests with a wrong key in a minute from one peer address; further ones are answered 429, and
    /// good keys never are. 0 for any number.
    #[arg(long, env = "TRIALOG_MAX_KEY_FAILURES", value_name = "COUNT", default_value_t = 1000,
        value_parser = clap::value_parser!(u32))]
    max_key_failures: u32,
    /// The first request of a connection must come in this time, or up to twice of it.
    #[arg(long, env = "TRIALOG_HEAD_TIMEOUT", value_name = "TIME", default_value = "30s",
        value_parser = seconds(Duration::from_millis(10), YEAR))]
    head_timeout: Duration,
    /// A connection without a request is closed after this time.
    #[arg(long, env = "TRIALOG_QUIET_TIMEOUT", value_name = "TIME", default_value = "75s",
        value_parser = seconds(Duration::from_millis(10), YEAR))]
    quiet_timeout: Duration,
    /// A client may be silent for so long in the middle of a body; 408 then.
    #[arg(long, env = "TRIALOG_BODY_SILENCE", value_name = "TIME", default_value = "30s",
        value_parser = seconds(Duration::from_millis(10), YEAR))]
    body_silence: Duration,
    /// A whole body must come in this time; 408 then.
    #[arg(long, env = "TRIALOG_BODY_TIMEOUT", value_name = "TIME", default_value = "10m",
        value_parser = seconds(Duration::from_millis(10), YEAR))]
    body_timeout: Duration,
    /// Experiments in the store; further ones are answered 409.
    #[arg(long, env = "TRIALOG_MAX_EXPERIMENTS", value_name = "COUNT", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_experiments: u32,
    /// Readers of `…/tail` at the same time; further ones are answered 503.
    #[arg(long, env = "TRIALOG_MAX_TAILS", value_name = "COUNT", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    max_tails: u32,
    /// Experiments that have series of their own in `/metrics`: the first ones that get entries.
    #[arg(long, env = "TRIALOG_METRICS_EXPERIMENTS", value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    metrics_experiments: u32,
    /// Threads for requests. By default one less than there are processors (at least one): one is
    /// left to the journal.
    #[arg(long, env = "TRIALOG_THREADS", value_name = "COUNT",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// What the server says on stderr: off, error, warn, info, debug or trace.
    #[arg(
        long,
        env = "TRIALOG_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    log_level: LevelFilter,
    /// For people, or one JSON object a line.
    #[arg(long, env = "TRIALOG_LOG_FORMAT", value_enum, default_value_t = Form::Text)]
    log_format: Form,
    /// A request that takes longer until it is answered is told in the log; none if this is 0. A
    /// plain number is in milliseconds.
    #[arg(long, env = "TRIALOG_SLOW_REQUEST", value_name = "TIME", default_value = "1000ms",
        value_parser = millis(Duration::ZERO, YEAR))]
    slow_request: Duration,
    #[command(flatten)]
    tls: tls_files::Args,
    /// The handshake of TLS may take so long.
    #[arg(long, env = "TRIALOG_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "10s",
        value_parser = seconds(Duration::from_millis(10), YEAR))]
    handshake_timeout: Duration,
    /// Listen without TLS where others can listen in, too.
    #[arg(long, env = "TRIALOG_INSECURE", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", default_value_t = false,
        value_name = "BOOL")]
    insecure: bool,
    /// For a process that starts this one: its address is printed, and nothing else, and it ends when
    /// stdin does.
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    /// An entry is on stable storage when it is acknowledged.
    Sync,
    /// An entry survives `kill -9` at once, and a power cut some 100 ms later.
    Relaxed,
}

pub fn run(_: Args) -> Result<Outcome> {
    let all = Cli::command();
    settings::check_environment(&all, std::env::vars_os().map(|(name, _)| name))?;
    // The command line itself: what a file says is put between it and the defaults.
    let flags: Vec<OsString> = std::env::args_os().skip(2).collect();
    let (args, settings) = Settings::load::<Args>(&flags)?;
    if args.print_config {
        output::data(settings.to_string().trim_end())?;
        return Ok(Outcome::Done);
    }
    let level = Level::begin(args.log_format, args.log_level)?;
    // What waits for the archive has threads of its own, so that the others never do.
    #[cfg(feature = "archive")]
    let readers = args.archive.as_ref().map_or(0, |_| READERS_MAX);
    #[cfg(not(feature = "archive"))]
    let readers = 0;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(threads(&args))
        .max_blocking_threads(BLOCKING_THREADS + readers)
        .build()
        .context("starting threads failed")?;
    runtime.block_on(run_server(args, flags, settings, level))
}

fn threads(args: &Args) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = args.threads.map(usize::from);
    wanted.unwrap_or(processors.saturating_sub(1).max(1))
}

async fn run_server(
    args: Args,
    flags: Vec<OsString>,
    settings: Settings,
    level: Level,
) -> Result<Outcome> {
    #[cfg_attr(not(feature = "archive"), expect(unused_mut))]
    let mut host = real::host();
    // A file that may not grow is then an error of the write, and not the end.
    let _ignored = signal(SignalKind::from_raw(real::FILE_SIZE_SIGNAL))?;
    let limits = limits(&args)?;
    let tls = args.tls.open()?;
    check_exposure(&args, tls.is_some())?;
    // Early, so that a server that can't listen leaves no store behind.
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("can't listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let signals = reload::Signals::new()?;

    let own_key = first::own_key()?;
    if args.journal == Where::Local {
        journal::check_local(&args.data)?;
    }
    #[cfg(feature = "archive")]
    let archive = args.archive.as_deref().map(Archive::open).transpose()?;
    let options = store_options(&args);
    #[cfg(feature = "archive")]
    let archived = options.archived.clone();
    #[cfg(feature = "archive")]
    if let (Some(archive), Some(archived)) = (&archive, &archived) {
        let (own, cache_bytes) = (host.disk.clone(), len(args.archive_cache_bytes));
        let disk = ReadThrough::new(own, archive.clone(), archived.clone(), cache_bytes)?;
        host.disk = Arc::new(disk);
    }
    let opening = host.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(options, opening)).await??;
    let store = Arc::new(store);
    #[cfg_attr(not(feature = "nats"), expect(unused_mut))]
    let (mut keyring, mut has_keys) = Keyring::open(&host, &args.data)?;
    #[cfg(feature = "nats")]
    let joined = match &args.journal {
        Where::Local => None,
        Where::Nats(servers) => {
            Some(journal::join(servers, &args.stream, &store, &mut keyring).await?)
        }
    };
    let state = AppState::new(store, keyring, limits);
    #[cfg(feature = "nats")]
    let (state, keys) = match joined {
        None => (state, None),
        Some(joined) => {
            has_keys = joined.has_keys;
            (state.with_replica(joined.replica), Some(joined.keys))
        }
    };
    if !has_keys {
        first::make(&host, &state, &args.data, own_key).await?;
    }
    let state = Arc::new(state);
    #[cfg(feature = "archive")]
    let keeper = match (archive, archived) {
        (Some(archive), Some(archived)) => {
            let local_bytes = args.archive_local_bytes;
            Some(Keeper::start(
                archive,
                state.store.clone(),
                archived,
                local_bytes,
            )?)
        }
        _ => None,
    };
    match args.child {
        true => child::tell(address)?,
        false => first::greet(&state, &args.data, address, tls.is_some()),
    }
    let supervisor = Supervisor::from_environment();
    supervisor.tell("READY=1");
    let watched = tokio::spawn(supervisor.clone().keep_alive());

    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = parent_end(args.child) => {}
        }
        info!("shutting down");
    };
    let server_tls = tls.as_ref().map(|files| files.tls.clone());
    let reloading = reload::Reloading {
        flags,
        settings,
        level,
        log_level: args.log_level,
        state: state.clone(),
        tls,
    };
    // None of these ends by itself.
    let mut beside = JoinSet::new();
    beside.spawn(keep_retaining(state.store.clone(), args.retention_interval));
    beside.spawn(keep_used(state.clone()));
    #[cfg(feature = "nats")]
    if let Some(keys) = keys {
        beside.spawn(keys.follow(state.keyring.clone()));
    }
    beside.spawn(reloading.run(signals));
    serve_tls(listener, server_tls, state.clone(), shutdown).await;
    beside.shutdown().await;
    supervisor.tell("STOPPING=1");
    #[cfg(feature = "archive")]
    if let Some(keeper) = keeper {
        tokio::task::spawn_blocking(move || keeper.stop()).await?;
    }
    write_used(&state).await;
    state.shutdown().await;
    watched.abort();
    info!("bye");
    Ok(Outcome::Done)
}

/// Writes down now and then when keys were used. Never ends.
async fn keep_used(state: Arc<AppState>) {
    loop {
        tokio::time::sleep(KEEP_USED_EVERY).await;
        write_used(&state).await;
    }
}

async fn write_used(state: &AppState) {
    // On a disk that has failed nothing more is written, and what room is left is for entries.
    if state.store.health() != StoreHealth::Ready {
        return;
    }
    let keyring = state.keyring.clone();
    let written = tokio::task::spawn_blocking(move || keyring.keep_used()).await;
    if let Ok(Err(error)) = written {
        // It is tried again, and nothing depends on it.
        warn!(%error, "when keys were last used could not be written down");
    }
}

/// Is ready when the parent has ended; never without one.
async fn parent_end(is_child: bool) {
    if !is_child {
        return std::future::pending().await;
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    child::when_parent_ends(|| drop(end));
    // It is dropped, never sent.
    let _dropped = ended.await;
}

fn store_options(args: &Args) -> StoreOptions {
    StoreOptions {
        dir: args.data.clone(),
        segment_bytes: args.segment_bytes,
        journal_bytes: args.journal_bytes,
        durability: match args.durability {
            DurabilityArg::Sync => Durability::Sync,
            DurabilityArg::Relaxed => Durability::Relaxed,
        },
        mailbox_len: args.mailbox as usize,
        inflight_bytes: usize::try_from(args.inflight_bytes).unwrap_or(usize::MAX),
        idle_timeout: args.idle_timeout,
        free_bytes_min: args.min_free,
        counted_experiments_max: args.metrics_experiments as usize,
        window: Window {
            age: args.idempotency_window,
            entries_max: args.idempotency_entries as usize,
        },
        experiments_max: args.max_experiments as usize,
        variants_max: args.max_variants.into(),
        metrics_max: args.metrics_limit.into(),
        #[cfg(feature = "archive")]
        archived: args.archive.as_ref().map(|_| Arc::default()),
        ..StoreOptions::default()
    }
}

/// The front end's bounds. Fails when there are so few descriptors that writing out entries could
/// fail for want of one.
fn limits(args: &Args) -> Result<Limits> {
    let wanted = args.max_connections as usize;
    let descriptors = real::raise_descriptor_limit();
    let needed = FILE_DESCRIPTORS + CONNECTIONS_MIN;
    ensure!(
        descriptors >= needed,
        "{descriptors} descriptors are too few: raise `ulimit -n` to {needed} or more"
    );
    let possible = usize::try_from(descriptors - FILE_DESCRIPTORS).unwrap_or(usize::MAX);
    if possible < wanted {
        warn!(
            "{descriptors} descriptors allow {possible} connections, not {wanted}: raise `ulimit -n`"
        );
    }
    let mut limits = Limits {
        connections_max: wanted.min(possible),
        tails_max: args.max_tails as usize,
        url_bytes_max: len(args.max_url),
        header_bytes_max: len(args.max_headers),
        ..Limits::default()
    };
    args.set_limits(&mut limits);
    Ok(limits)
}

/// The settings that can change while the server runs.
pub const RELOADABLE: [&str; 14] = [
    "body_silence",
    "body_timeout",
    "handshake_timeout",
    "head_timeout",
    "key_rate",
    "log_level",
    "max_batch",
    "max_body",
    "max_key_failures",
    "max_nesting",
    "max_peer_connections",
    "max_requests",
    "quiet_timeout",
    "slow_request",
];

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Args {
    /// Sets those of the front end's bounds that can change: see [`RELOADABLE`].
    pub fn set_limits(&self, limits: &mut Limits) {
        limits.body_bytes_max = len(self.max_body);
        limits.batch_bytes_max = len(self.max_batch);
        limits.nesting_max = self.max_nesting.into();
        limits.requests_max = u64::from(self.max_requests);
        limits.peer_connections_max = self.max_peer_connections as usize;
        limits.key_rate = self.key_rate;
        limits.failures_max = self.max_key_failures;
        limits.head_max = self.head_timeout;
        limits.quiet_max = self.quiet_timeout;
        limits.body_silence_max = self.body_silence;
        limits.body_time_max = self.body_timeout;
        limits.handshake_max = self.handshake_timeout;
        limits.slow_request = self.slow_request;
    }

    /// How much is said.
    pub fn log_level(&self) -> LevelFilter {
        self.log_level
    }
}

/// Keys and entries are not to go over a network for all to read, unless somebody wants it so.
fn check_exposure(args: &Args, is_tls: bool) -> Result<()> {
    let is_here = args.listen.ip().to_canonical().is_loopback();
    ensure!(
        is_tls || is_here || args.insecure,
        "{} can be reached from other machines, and without TLS keys and entries would go over the \
         network for all to read: give --tls-cert and --tls-key, or --insecure where something in \
         front does TLS",
        args.listen
    );
    Ok(())
}
