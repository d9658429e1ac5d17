//! A run from its beginning to its end: set up, warm up, measure in rounds, check, clean up.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::check;
use super::child::Served;
use super::entries::Entries;
use super::machine::Machine;
use super::meter::{Measured, Meter, Watch};
use super::own::{self, Scratch};
use super::plan::Plan;
use super::target::{Account, Http, Target, goes_on, peer};
use super::verdict::Verdict;

/// Two targets take turns of about this length: what the machine does beside it hits both.
const ROUND: Duration = Duration::from_secs(2);

/// What a run found.
pub struct Outcome {
    pub machine: Machine,
    /// What an acknowledgement meant.
    pub durability: String,
    pub entry_bytes_mean: usize,
    /// trialog, and then the peer.
    pub measured: Vec<Measured>,
    /// What the peer is, when it is a server that isn't ours.
    pub peer: Option<Account>,
    pub verdict: Option<Verdict>,
    /// Where the store is kept when something is wrong with it.
    pub kept: Option<String>,
}

/// Does what the plan says.
pub fn run(plan: &Plan, entries: &Entries, stop: &AtomicBool, watch: &Watch) -> Result<Outcome> {
    let mut scratch = Scratch::make(&plan.dir)?;
    let store = scratch.store();
    let mut served: Option<Served> = None;
    let server = match &plan.server {
        Some(server) => server.clone(),
        None => {
            let (started, server) = own::start(&store, &plan.serve_flags)?;
            served = Some(started);
            server
        }
    };
    let durability = server.durability()?;
    let may_create = plan.server.is_none() || plan.may_create;
    server.prepare(&plan.experiments, &entries.variants, may_create)?;
    let is_foreign_checked = plan.check && served.is_none();
    let before = match is_foreign_checked {
        true => server.counts(&plan.experiments)?,
        false => Vec::new(),
    };

    let (host, key) = (&*server.host, &*server.api_key);
    let mut trialog = Http::new(plan, entries, server.address.clone(), host, key, stop)?;
    let mut peer = match plan.against {
        Some(kind) => Some((kind, peer(kind, plan, entries, scratch.path(), stop)?)),
        None => None,
    };
    let mut sides: Vec<(&str, &mut dyn Target)> = vec![("trialog", &mut trialog)];
    if let Some((kind, peer)) = &mut peer {
        sides.push((kind.name(), peer.as_mut()));
    }
    let measured = measure(plan, &mut sides, stop, watch)?;
    let account = match &mut peer {
        Some((_, peer)) => peer.account(plan.check)?,
        None => None,
    };
    drop(peer);

    // An end in good order writes everything to the segments.
    let is_own = served.is_some();
    if let Some(served) = served.take() {
        served.stop()?;
    }
    let tally = trialog.tally();
    let verdict = match (plan.check, is_own) {
        (false, _) => None,
        (true, true) => Some(check::in_store(&store, &plan.experiments, tally, entries)?),
        (true, false) => Some(check::through_api(
            &server,
            &plan.experiments,
            &before,
            tally,
            entries,
        )?),
    };
    let is_bad = verdict.as_ref().is_some_and(|verdict| !verdict.is_good());
    let kept = (is_bad && is_own).then(|| scratch.keep().join("store").display().to_string());
    Ok(Outcome {
        machine: Machine::this(&plan.dir),
        durability,
        entry_bytes_mean: entries.mean_bytes(),
        measured,
        peer: account,
        verdict,
        kept,
    })
}

/// Warms all sides up, and then measures them in turns.
fn measure(
    plan: &Plan,
    sides: &mut [(&str, &mut dyn Target)],
    stop: &AtomicBool,
    watch: &Watch,
) -> Result<Vec<Measured>> {
    let per_request = plan.entries_per_request();
    let mut meters = Vec::new();
    for (name, side) in sides.iter_mut() {
        if !plan.warm_up.is_zero() {
            let mut unread = Meter::new(name, per_request, None)?;
            side.round(plan.warm_up, &mut unread)?;
        }
        meters.push(Meter::new(name, per_request, Some(watch.clone()))?);
    }
    let rounds = match sides.len() {
        1 => 1,
        _ => plan.duration.div_duration_f64(ROUND).ceil().max(1.0) as u32,
    };
    for _ in 0..rounds {
        for ((_, side), meter) in sides.iter_mut().zip(&mut meters) {
            if goes_on(stop) {
                side.round(plan.duration / rounds, meter)?;
            }
        }
    }
    let measured: Vec<_> = meters.into_iter().map(Meter::measured).collect();
    for side in &measured {
        let is_empty = side.entries() == 0;
        let codes: Vec<_> = side.errors.keys().map(String::as_str).collect();
        ensure!(
            !is_empty || codes.is_empty(),
            "{} acknowledged nothing: {}",
            side.name,
            codes.join(", ")
        );
    }
    Ok(measured)
}
