//! What the server says on stderr: in which form, and how much of it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// The form of a line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The level, which can be changed.
pub struct Level {
    handle: reload::Handle<LevelFilter, Registry>,
    is_debugging: AtomicBool,
}

impl Level {
    /// From now on, events of this process are told.
    pub fn begin(form: Form, level: LevelFilter) -> Result<Self> {
        let (filter, handle) = reload::Layer::new(level);
        let words = fmt::layer()
            .with_writer(std::io::stderr)
            // It would tell stderr that stderr is gone, and panic over that.
            .log_internal_errors(false);
        let words = match form {
            Form::Text => words.with_ansi(std::io::stderr().is_terminal()).boxed(),
            Form::Json => {
                let words = words.json().flatten_event(true);
                words.with_current_span(false).with_span_list(false).boxed()
            }
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(words)
            .try_init()?;
        Ok(Self {
            handle,
            is_debugging: AtomicBool::new(false),
        })
    }

    /// What is set holds again, whatever was toggled.
    pub fn set(&self, level: LevelFilter) -> Result<()> {
        self.is_debugging.store(false, Ordering::Relaxed);
        Ok(self.handle.reload(level)?)
    }

    /// Turns debug lines on, or what is set back on; says whether they are on.
    pub fn toggle_debug(&self, set: LevelFilter) -> Result<bool> {
        let is_on = !self.is_debugging.fetch_not(Ordering::Relaxed);
        let level = if is_on {
            set.max(LevelFilter::DEBUG)
        } else {
            set
        };
        self.handle.reload(level)?;
        Ok(is_on)
    }
}
