//! What a running server takes over: settings on SIGHUP, debug logs on SIGUSR1, and certificates
//! when they change.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use super::serve::{Args, RELOADABLE};
use super::settings::Settings;
use super::tls_files::{LOOK_EVERY, TlsFiles};
use super::words::Level;
use crate::http::AppState;

/// The signals: from when this is made, none of them ends the process.
pub struct Signals {
    hang_up: Signal,
    toggle: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            toggle: signal(SignalKind::user_defined1())?,
        })
    }
}

/// A server whose settings can change.
pub struct Reloading {
    /// The command line.
    pub flags: Vec<OsString>,
    /// Those that hold.
    pub settings: Settings,
    pub level: Level,
    /// The one that is set, whatever was toggled.
    pub log_level: LevelFilter,
    pub state: Arc<AppState>,
    pub tls: Option<TlsFiles>,
}

impl Reloading {
    /// Does what the signals ask for. Never ends.
    pub async fn run(mut self, mut signals: Signals) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                Some(()) = signals.hang_up.recv() => self.reload(),
                Some(()) = signals.toggle.recv() => self.toggle_debug(),
                _ = look.tick(), if self.tls.is_some() => {
                    if let Some(files) = &mut self.tls {
                        files.look();
                    }
                }
            }
        }
    }

    fn toggle_debug(&self) {
        match self.level.toggle_debug(self.log_level) {
            Ok(true) => info!("debug lines are on"),
            Ok(false) => info!("debug lines are off"),
            Err(error) => error!(%error, "debug lines can't be turned on or off"),
        }
    }

    fn reload(&mut self) {
        if let Some(files) = &mut self.tls {
            files.reload();
        }
        let (args, new) = match Settings::load::<Args>(&self.flags) {
            Ok(loaded) => loaded,
            Err(error) => return error!("the settings stay as they were: {error:#}"),
        };
        let mut limits = *self.state.limits();
        args.set_limits(&mut limits);
        self.state.set_limits(limits);
        self.log_level = args.log_level();
        if let Err(error) = self.level.set(self.log_level) {
            error!(%error, "the log level stays as it was");
        }
        for name in self.settings.changed(&new) {
            if RELOADABLE.contains(&name.as_str()) {
                self.settings.take(&name, &new);
                info!(setting = name, "changed");
            } else {
                warn!(setting = name, "changed, and needs a restart to hold");
            }
        }
        info!("settings read again");
    }
}
