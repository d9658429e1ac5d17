//! Tells those who follow an experiment that there is more to read, or that there never will be.
//! Outlives the experiment's actors, which come and go.

use std::sync::atomic::{Ordering, fence};

use tokio::sync::watch;

/// An experiment's news.
pub struct News(watch::Sender<IsOver>);

/// Hears an experiment's news. Several at once are one.
pub struct Listener(watch::Receiver<IsOver>);

/// Whether the experiment was deleted.
type IsOver = bool;

/// The experiment was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over;

impl Default for News {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl News {
    /// Something has become durable. Where nobody listens, that costs a look at how many do.
    pub fn tell(&self) {
        // With the one in `listen`: whoever isn't counted yet will read what is durable now.
        fence(Ordering::SeqCst);
        if self.0.receiver_count() > 0 {
            self.0.send_modify(|_| {});
        }
    }

    /// The experiment was deleted.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// Hears what is told from now on.
    pub fn listen(&self) -> Listener {
        let receiver = self.0.subscribe();
        fence(Ordering::SeqCst);
        Listener(receiver)
    }
}

impl Listener {
    /// Waits for news. Loses none when it is dropped.
    pub async fn hear(&mut self) -> Result<(), Over> {
        let heard = self.0.changed().await;
        if heard.is_err() || *self.0.borrow() {
            return Err(Over);
        }
        Ok(())
    }

    /// Takes what was told so far as heard: whoever reads then reads what it was about.
    pub fn catch_up(&mut self) -> Result<(), Over> {
        match *self.0.borrow_and_update() {
            true => Err(Over),
            false => Ok(()),
        }
    }
}
