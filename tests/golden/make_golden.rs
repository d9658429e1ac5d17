//! Made `tests/golden/format-1`; see the README beside it. `cargo run --example make_golden -- DIR`
//! makes another one like it in the new folder DIR, with whatever format the code writes today.
//!
//! Each phase is a process of its own, so that its end can be a killed server's.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trialog::auth::{Keyring, NewKey, Scope};
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::real::{self, RealDisk};
use trialog::fs::{
    Access, Clock, Dir, DirEntry, Disk, File, FileSystem, Host, LockGuard, Mapping, replace_file,
};
use trialog::log::reader::{EndHint, Segment};
use trialog::log::segment::segment_path;
use trialog::model::{Definition, Idempotency, IdempotencyKey, NewEntry, Slug};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ADMIN_KEY: &str = "golden-admin-key-of-format-1-no-secret";
const START_MS: u64 = 1_764_000_000_000;
const HOUR_MS: u64 = 3_600_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [what, dir] if what == "figures" => make_figures(Path::new(dir)),
        [dir] => make(Path::new(dir)),
        [dir, phase] => run_phase(Path::new(dir), phase.parse()?),
        _ => Err("usage: make_golden DIR".into()),
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    for phase in 1..=4 {
        let status = Command::new(std::env::current_exe()?)
            .arg(dir)
            .arg(phase.to_string())
            .status()?;
        if !status.success() {
            return Err(format!("phase {phase} failed").into());
        }
    }
    let mut expected = String::new();
    for slug in ["demo", "fresh", "search-ranker"] {
        expected.push_str(&fs::read_to_string(acked_file(dir, slug))?);
        fs::remove_file(acked_file(dir, slug))?;
    }
    fs::write(dir.join("expected.jsonl"), &expected)?;

    let lone = dir.join("lone");
    fs::create_dir(&lone)?;
    let demo = dir.join("store/experiments/demo");
    copy_alone(&segment_path(&demo, 0), &lone.join("sealed"), 0, &expected)?;
    let mut segments: Vec<PathBuf> = fs::read_dir(dir.join("store/experiments/search-ranker"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    segments.retain(|path| path.extension().is_some_and(|ending| ending == "segment"));
    segments.sort();
    let active = segments.last().ok_or("no segment")?;
    copy_alone(active, &lone.join("torn"), 5, &expected)
}

/// A store whose footers have all that is kept of metrics and idempotency keys.
#[tokio::main]
async fn make_figures(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let maker = Maker::open(dir, 0)?;
    maker.keyring.create_first(Some(ADMIN_KEY.into()), |key| {
        let path = maker.store.dir().join("admin.key");
        replace_file(&*maker.host.disk, &path, format!("{key}\n").as_bytes())
    })?;
    let definition =
        serde_json::from_str(r#"{"variants":[{"key":"A"},{"key":"B"}],"unit":"context.session"}"#)?;
    maker.store.define(&slug("figures")?, definition).await?;
    for n in 0..60 {
        let metrics = match n % 6 {
            0 => r#"{"ms":-0.0,"big":1e400,"text":"x","none":null,"list":[1],"ok":true}"#.into(),
            1 => r#"{"ms":5e-324,"big":-1.7976931348623157e308,"ok":false}"#.into(),
            2 => format!(r#"{{"judge":{{"score":{n}.125,"by":{{"größe":{n}e9}}}},"ms":1,"ms":2}}"#),
            _ => format!(r#"{{"ms":{}.5,"judge":{{"score":-{n}}}}}"#, n * n),
        };
        let variant = if n % 4 == 3 { "B" } else { "A" };
        let session = n / 3;
        let body = format!(
            r#"{{"variantKey":"{variant}","metrics":{metrics},"context":{{"session":"s{session}"}}}}"#
        );
        let key = (n % 2 == 0).then(|| format!("key-{n}"));
        maker
            .append_keyed("figures", key.as_deref(), &[(variant, body)])
            .await?;
    }
    let batch: Vec<_> = (100..103).map(|n| entry("B", n, 10)).collect();
    maker.append_keyed("figures", Some("batch"), &batch).await?;
    for n in 200..216 {
        maker.append("figures", &[entry("A", n, 100)]).await?;
    }
    maker.store.shutdown().await;
    fs::rename(acked_file(dir, "figures"), dir.join("expected.jsonl"))?;
    Ok(())
}

/// Copies a segment without its last bytes, and writes what a replay of it gives beside it.
fn copy_alone(from: &Path, to: &Path, cut: usize, expected: &str) -> Result<()> {
    let mut bytes = fs::read(from)?;
    bytes.truncate(bytes.len() - cut);
    let path = to.with_extension("segment");
    fs::write(&path, &bytes)?;
    let segment = Segment::open(&*real::host().disk, &path, EndHint::Unknown)?;
    let index = segment.fold().index;
    let first = index.first_id.ok_or("no entry")?.to_string();
    let lines = expected.lines().skip_while(|line| !line.contains(&first));
    let mut out = fs::File::create(to.with_extension("jsonl"))?;
    for line in lines.take(index.entry_count as usize) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[tokio::main]
async fn run_phase(dir: &Path, phase: u64) -> Result<()> {
    let maker = Maker::open(dir, phase)?;
    match phase {
        1 => maker.first_life().await,
        2 => maker.life_with_a_cut_group().await,
        3 => maker.life_after_the_cut().await,
        _ => maker.last_life().await,
    }
}

struct Maker {
    dir: PathBuf,
    store: Store,
    keyring: Keyring,
    host: Host,
    clock: Arc<SetClock>,
    disk: Arc<DyingDisk>,
}

impl Maker {
    fn open(dir: &Path, phase: u64) -> Result<Self> {
        let clock = Arc::new(SetClock(AtomicU64::new(START_MS + phase * HOUR_MS)));
        let disk = Arc::new(DyingDisk {
            inner: RealDisk,
            dies_at_segment_sync: Arc::default(),
            holds_background: AtomicBool::new(false),
        });
        let host = Host {
            disk: disk.clone(),
            clock: clock.clone(),
            entropy: real::host().entropy,
        };
        let options = StoreOptions {
            dir: dir.join("store"),
            segment_bytes: 2048,
            journal_bytes: 24 << 10,
            large_group_bytes: 900,
            free_bytes_min: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(options, host.clone())?;
        let (keyring, _) = Keyring::open(&host, store.dir())?;
        Ok(Self {
            dir: dir.to_path_buf(),
            store,
            keyring,
            host,
            clock,
            disk,
        })
    }

    /// Keys, two experiments, sealed segments, a whole large group, a clean end.
    async fn first_life(&self) -> Result<()> {
        self.keyring.create_first(Some(ADMIN_KEY.into()), |key| {
            let path = self.store.dir().join("admin.key");
            replace_file(&*self.host.disk, &path, format!("{key}\n").as_bytes())
        })?;
        self.keyring.create(NewKey {
            name: "a client's".into(),
            scopes: vec![Scope::Ingest, Scope::Read],
            experiments: vec!["search-*".into()],
            expires_at_ms: Some(START_MS + 1_000_000 * HOUR_MS),
        })?;
        let demo: Definition = serde_json::from_str(
            r#"{"variants":[{"key":"A","weight":0.5,"control":true},{"key":"B","weight":0.5}],
            "unit":"context.session_id","description":"grün & „quoted“",
            "retention":{"maxAge":"90d","maxBytes":1000000}}"#,
        )?;
        self.store.define(&slug("demo")?, demo).await?;
        let open: Definition = serde_json::from_str(r#"{"variants":[],"openVariants":true}"#)?;
        self.store.define(&slug("search-ranker")?, open).await?;
        for n in 0..16 {
            let variant = if n % 3 == 0 { "B" } else { "A" };
            self.append("demo", &[entry(variant, n, 180)]).await?;
        }
        for (variant, body) in AS_SENT {
            self.append("search-ranker", &[(*variant, (*body).into())])
                .await?;
        }
        self.append_batch("search-ranker", "検索-v2", 100, 8)
            .await?;
        self.append("search-ranker", &[entry("A", 200, 10)]).await?;
        self.store.shutdown().await;
        Ok(())
    }

    /// The clock is set back, and the process dies in a large group.
    async fn life_with_a_cut_group(&self) -> Result<()> {
        self.clock.0.store(START_MS, Ordering::Relaxed);
        self.append("demo", &[entry("A", 300, 20)]).await?;
        self.append("search-ranker", &[entry("größe", 301, 20)])
            .await?;
        self.die_in_large_group("demo").await
    }

    /// Recovery cuts the group; the log goes on behind it, and everything is sealed.
    async fn life_after_the_cut(&self) -> Result<()> {
        for n in 400..407 {
            self.append("demo", &[entry("B", n, 180)]).await?;
        }
        self.store.shutdown().await;
        Ok(())
    }

    /// What a killed server leaves: entries and a whole experiment that are in the journal only,
    /// marks of a large group that ended, and of one that didn't.
    async fn last_life(&self) -> Result<()> {
        let fresh: Definition = serde_json::from_str(r#"{"variants":[{"key":"one"}]}"#)?;
        self.store.define(&slug("fresh")?, fresh).await?;
        self.disk.holds_background.store(true, Ordering::Relaxed);
        self.append("demo", &[entry("A", 500, 20)]).await?;
        self.append_batch("search-ranker", "größe", 600, 8).await?;
        self.append(
            "search-ranker",
            &[entry("B", 700, 20), entry("größe", 701, 20)],
        )
        .await?;
        self.append("fresh", &[entry("one", 800, 20)]).await?;
        self.append("fresh", &[entry("one", 801, 20)]).await?;
        self.die_in_large_group("demo").await
    }

    async fn die_in_large_group(&self, slug_text: &str) -> Result<()> {
        self.disk
            .dies_at_segment_sync
            .store(true, Ordering::Relaxed);
        self.append_batch(slug_text, "A", 900, 8).await?;
        Err("the process should have died".into())
    }

    async fn append_batch(&self, to: &str, variant: &str, first: u64, count: u64) -> Result<()> {
        let batch = (first..first + count).map(|n| entry(variant, n, 100));
        self.append(to, &batch.collect::<Vec<_>>()).await
    }

    async fn append(&self, to: &str, entries: &[(&str, String)]) -> Result<()> {
        self.append_keyed(to, None, entries).await
    }

    /// Appends, and keeps what a replay must give for it.
    async fn append_keyed(
        &self,
        to: &str,
        key: Option<&str>,
        entries: &[(&str, String)],
    ) -> Result<()> {
        let key = key
            .map(|key| IdempotencyKey::parse(key.as_bytes()))
            .transpose()?;
        let now_ms = self.clock.0.fetch_add(1_234, Ordering::Relaxed) + 1_234;
        let new = entries
            .iter()
            .zip(1..)
            .map(|((variant, body), number)| NewEntry {
                variant_key: (*variant).into(),
                body: body.clone().into_bytes().into(),
                idempotency: key.map(|key| {
                    Box::new(Idempotency::in_batch(
                        key,
                        number,
                        entries.len(),
                        body.as_bytes(),
                    ))
                }),
            });
        let permit = self.store.reserve(1 << 16)?;
        let slug = slug(to)?;
        let appended = self.store.append_batch(&slug, new.collect(), permit);
        let mut acked = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(acked_file(&self.dir, to))?;
        let time = trialog::entry_json::rfc3339_ms(now_ms);
        for (id, (_, body)) in appended.await?.ids.into_iter().zip(entries) {
            let members = body.trim_start().trim_start_matches('{').trim_end();
            let members = members.replace(['\n', '\r'], " ");
            writeln!(
                acked,
                r#"{{"logId":"{id}","experiment":"{to}","receivedAt":"{time}",{members}"#
            )?;
        }
        Ok(())
    }
}

/// What clients may send and must get back byte for byte.
const AS_SENT: &[(&str, &str)] = &[
    (
        "größe",
        r#"{"variantKey":"größe","input":{"q":"Ωμέγα 🦀"},"metrics":{"score":0.10,"huge":1e400,"tiny":-0.0E-7}}"#,
    ),
    (
        "größe",
        r#"{"metrics":{"tokens":123456789012345678901234567890},"variantKey":"gr\u00f6\u00dfe"}"#,
    ),
    (
        "検索-v2",
        " {\n  \"variant\\u004bey\" : \"検索-v2\" ,\r\n\t\"output\" : [ null , true , \"a\\nb\" , \"\\ud83e\\udd80\" ]\n}\n",
    ),
    (
        "A",
        r#"{"variantKey":"A","context":{"session_id":"s","session_id_":"","":0}}"#,
    ),
];

fn entry(variant: &str, n: u64, padding: usize) -> (&str, String) {
    let padding = "x".repeat(padding);
    let body = format!(
        r#"{{"variantKey":"{variant}","input":{{"n":{n},"padding":"{padding}"}},"metrics":{{"latency_ms":{n}.50}}}}"#
    );
    (variant, body)
}

fn slug(text: &str) -> Result<Slug> {
    Ok(Slug::parse(text)?)
}

fn acked_file(dir: &Path, slug: &str) -> PathBuf {
    dir.join(format!("{slug}.acked"))
}

struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The real disk, with the smallest sectors. When told to, the process ends in place of the next
/// sync of a segment: between the two marks of a large group.
struct DyingDisk {
    inner: RealDisk,
    dies_at_segment_sync: Arc<AtomicBool>,
    /// Whether the background work never gets to write a segment (but of the experiment `demo`,
    /// whose large group needs it), so that entries stay in the journal alone.
    holds_background: AtomicBool,
}

struct DyingFile {
    inner: Arc<dyn File>,
    is_segment: bool,
    dies_at_segment_sync: Arc<AtomicBool>,
}

impl DyingDisk {
    fn hold(&self, path: &Path) {
        let is_held = || self.holds_background.load(Ordering::Relaxed);
        let is_background = std::thread::current().name() == Some("checkpoint");
        let is_demo = path.parent().is_some_and(|dir| dir.ends_with("demo"));
        while is_background && !is_demo && is_held() {
            std::thread::park();
        }
    }

    fn wrap(&self, path: &Path, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(DyingFile {
            inner,
            is_segment: path.extension().is_some_and(|ending| ending == "segment"),
            dies_at_segment_sync: self.dies_at_segment_sync.clone(),
        })
    }
}

impl Disk for DyingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.hold(path);
        Ok(self.wrap(path, self.inner.create(path)?))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        self.hold(path);
        Ok(self.wrap(path, self.inner.open(path, access)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.inner.open_dir(path)
    }
    fn open_filesystem(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.inner.open_filesystem(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.inner.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_locked(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_bytes(path)
    }
    fn sector_bytes(&self, _: &Path) -> io::Result<usize> {
        Ok(512)
    }
}

impl File for DyingFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.is_segment && self.dies_at_segment_sync.load(Ordering::Relaxed) {
            std::process::exit(0);
        }
        self.inner.sync_data()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()
    }
    fn map(&self, len: u64) -> io::Result<Mapping> {
        self.inner.map(len)
    }
}
