//! Telling the service manager how the server is, as `sd_notify(3)` does: when it is ready, that it is
//! alive, when it stops.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use std::{env, io};

use tracing::warn;

/// The service manager that started this process, if one did.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    socket: Option<OsString>,
    /// So often at least it wants to hear that the server is alive.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let own = std::process::id().to_string();
        let is_for_us = env::var("WATCHDOG_PID").map_or(true, |pid| pid == own);
        let micros = env::var("WATCHDOG_USEC").ok();
        let micros = micros.and_then(|micros| micros.parse().ok());
        Self {
            socket: env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            watchdog: micros.map(Duration::from_micros).filter(|_| is_for_us),
        }
    }

    /// Tells it a state, such as `READY=1`. Without a supervisor nobody hears it.
    pub fn tell(&self, state: &str) {
        if let Err(error) = self.try_tell(state) {
            warn!(%error, state, "the service manager can't be told");
        }
    }

    /// Tells it, as often as it wants to hear it, that requests are worked on. Never ends.
    pub async fn keep_alive(self) {
        let Some(watchdog) = self.watchdog else {
            return;
        };
        let mut ticks = tokio::time::interval(watchdog / 2);
        loop {
            ticks.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn try_tell(&self, state: &str) -> io::Result<()> {
        let Some(path) = &self.socket else {
            return Ok(());
        };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    }
}
