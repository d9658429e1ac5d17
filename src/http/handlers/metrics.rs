//! `GET /metrics`: the figures of the process, as Prometheus reads them.

use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use crate::experiment::state::State;
use crate::http::error::{ApiError, ApiResult};
use crate::http::query::parameters;
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::http::service::Asked;
use crate::metrics::process::Process;
use crate::metrics::text::{MEDIA_TYPE, Text, Unit};

/// Stands for all experiments that have no series of their own. No slug begins so.
const OTHERS: &str = "_other";

/// All of them. A key that is restricted to some experiments sees the others as one.
pub async fn metrics(state: &AppState, asked: Asked) -> ApiResult<Response<Body>> {
    let [] = parameters(asked.request.uri().query(), [])?;
    let (store, principal) = (state.store.clone(), asked.principal);
    #[cfg(feature = "archive")]
    let archived = store.archived();
    let read = move || (store.state(|slug| principal.sees(slug)), Process::read());
    let read = tokio::task::spawn_blocking(read).await;
    let (stored, process) = read.map_err(ApiError::internal)?;
    let mut text = Text::default();
    state.metrics.write(&mut text);
    write_connections(state, &mut text);
    write_store(&stored, &mut text);
    write_journal(&stored, &mut text);
    #[cfg(feature = "archive")]
    if let Some(archived) = archived {
        archived.metrics.write(&mut text);
    }
    #[cfg(feature = "nats")]
    if let Some(replica) = &state.replica {
        replica.write_metrics(&mut text);
    }
    write_process(&process.map_err(ApiError::internal)?, &mut text);

    let mut response = Response::new(Body::Full(Full::from(text.into_string())));
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

fn write_connections(state: &AppState, text: &mut Text) {
    let limits = state.limits();
    let connections_max = limits.connections_max;
    let open = connections_max - state.places.available_permits().min(connections_max);
    let help = "Connections that are open.";
    text.gauge("trialog_http_connections", help).value(open);
    let help = "Connections that may be open.";
    text.gauge("trialog_http_connections_max", help)
        .value(connections_max);
    let tails_max = limits.tails_max;
    let tails = tails_max - state.tails.available_permits().min(tails_max);
    text.gauge("trialog_tails", "Readers of tails.")
        .value(tails);
}

fn write_store(stored: &State, text: &mut Text) {
    let help = "Experiments in the store.";
    text.gauge("trialog_experiments", help)
        .value(stored.experiment_count);
    let help = "Experiments that are in use, and so in memory.";
    text.gauge("trialog_experiments_in_use", help)
        .value(stored.actor_count);
    let help = "Requests that wait in the mailboxes of experiments.";
    text.gauge("trialog_mailbox_requests", help)
        .value(stored.waiting_count);
    let help = "Bytes of requests in flight.";
    text.gauge("trialog_inflight_bytes", help)
        .value(stored.inflight_bytes);
    let help = "Bytes of memory that idempotency keys take.";
    text.gauge("trialog_idempotency_bytes", help)
        .value(stored.repeats_bytes);
    let help = "Bytes of memory that figures of metrics take between two questions, about.";
    text.gauge("trialog_figures_bytes", help)
        .value(stored.figures_bytes);
    if let Some(free_bytes) = stored.free_bytes {
        let help = "Bytes free on the disk of the store.";
        text.gauge("trialog_disk_free_bytes", help)
            .value(free_bytes);
    }
    let help = "Segments sealed.";
    text.counter("trialog_segments_sealed_total", help)
        .value(stored.sealed_count);

    let (own, others) = &stored.durable;
    let own = || {
        own.iter()
            .map(|(slug, counters)| (slug.as_str(), &**counters))
    };
    let all = || own().chain([(OTHERS, others)]);
    let help = "Entries that became durable, by experiment; the later ones of many are _other.";
    let mut family = text.counter("trialog_entries_total", help);
    for (experiment, counters) in all() {
        family.sample(&[("experiment", experiment)], counters.entries.get());
    }
    let help = "Bytes of segments that became durable, by experiment.";
    let mut family = text.counter("trialog_segment_bytes_total", help);
    for (experiment, counters) in all() {
        family.sample(&[("experiment", experiment)], counters.bytes.get());
    }
}

fn write_journal(stored: &State, text: &mut Text) {
    let journal = &stored.journal;
    let help = "Entries that became durable by one write to the journal.";
    let mut family = text.histogram("trialog_journal_batch_entries", help);
    family.buckets(&[], &journal.batch_entries, Unit::Plain);
    let help = "How long one sync of the journal took.";
    let mut family = text.histogram("trialog_journal_sync_seconds", help);
    family.buckets(&[], &journal.sync_us, Unit::Seconds);
    let help = "Bytes written to the journal.";
    let mut family = text.counter("trialog_journal_bytes_total", help);
    family.value(journal.written_bytes.get());
    let help = "Journal files whose entries became durable in their segments.";
    let mut family = text.counter("trialog_journal_checkpoints_total", help);
    family.value(journal.checkpoints.get());
}

fn write_process(process: &Process, text: &mut Text) {
    let help = "Time on processors, in seconds.";
    let mut family = text.counter("process_cpu_seconds_total", help);
    family.value(process.cpu_seconds);
    let help = "Memory in use, in bytes.";
    text.gauge("process_resident_memory_bytes", help)
        .value(process.resident_bytes);
    let help = "Address space in use, in bytes.";
    text.gauge("process_virtual_memory_bytes", help)
        .value(process.virtual_bytes);
    let help = "Open descriptors.";
    text.gauge("process_open_fds", help)
        .value(process.open_descriptors);
    if let Some(descriptors_max) = process.descriptors_max {
        let help = "Descriptors that may be open.";
        text.gauge("process_max_fds", help).value(descriptors_max);
    }
}
