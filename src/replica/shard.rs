//! One shard's task on one node: publishes what its requests want, follows what all nodes have published, and
//! places both, in the stream's order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::ageing::Joining;
use super::announced::Announced;
use super::error::{ReplicaError, Stopped};
use super::message::{MESSAGE_BYTES_MAX, Message};
use super::metrics::ReplicaMetrics;
use super::notes;
use super::pace::Pace;
use super::place::{NotPlaced, place};
use super::plan::{Attempt, Planner, Request};
use super::planted::{Bug, is_planted};
use super::position::Position;
use super::rounds::{Rounds, Turn};
use super::status::Status;
use super::stream::{PublishError, Stream, Unreachable};
use crate::experiment::Store;
use crate::experiment::replicated::PlaceError;

/// Messages of others that are placed before our own requests are planned again. Bounded, or a shard on which
/// others always write would never take a request here.
const FOLLOWED_AT_ONCE_MAX: usize = 64;
/// Requests that are taken from the channel while others wait for the stream.
const WAITING_MAX: usize = 8192;
/// Messages after which it is noted how far we are.
const NOTED_EVERY: u64 = 4096;
/// The stream must be seen so often to end in front of where we are, before it is believed to have lost what it
/// acknowledged: a server may answer that is behind.
const DIVERGED_LOOKS: u32 = 20;

/// The task's state.
pub struct Shard<S> {
    /// Which one it is.
    pub number: u16,
    /// Whose it is.
    pub node: u64,
    /// Where it is placed.
    pub store: Arc<Store>,
    /// What orders it.
    pub stream: Arc<S>,
    /// How long is waited.
    pub pace: Pace,
    /// What comes in.
    pub requests: mpsc::Receiver<Request>,
    /// What is counted.
    pub metrics: Arc<ReplicaMetrics>,
    /// What it tells.
    pub status: watch::Sender<Status>,
    /// Whether it is to end.
    pub is_ending: watch::Receiver<bool>,
    /// Whether the other nodes know what this one needs.
    pub joining: watch::Receiver<Joining>,
    /// With which others of this node it publishes.
    pub rounds: Arc<Rounds>,
    /// How far it is.
    pub position: Position,
    /// What isn't planned yet.
    pub waiting: VecDeque<Request>,
    /// How far it is noted to be, and since when.
    pub noted: (Position, Instant),
    /// Times in a row that the stream ended in front of us.
    pub diverged_looks: u32,
}

/// Why the work ends.
enum End {
    /// It was asked to.
    Asked,
    /// Nothing more can be done here.
    Stopped(Stopped),
}

impl From<Stopped> for End {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl<S: Stream> Shard<S> {
    /// Works until the node ends, or until nothing more can be done; then refuses what comes.
    ///
    /// Cancellation: may be dropped at any time, as by a crash; what was acknowledged is in the stream.
    pub async fn run(mut self) {
        let ended = match self.begin().await {
            Ok(()) => self.work().await,
            Err(end) => end,
        };
        match ended {
            End::Asked => {
                if let Err(stopped) = self.note_position().await {
                    warn!("{stopped}");
                }
                self.refuse_all(|| ReplicaError::ShuttingDown).await;
            }
            End::Stopped(stopped) => {
                error!("{stopped}");
                self.status.send_modify(|status| {
                    status.stopped = Some(stopped.clone());
                });
                self.refuse_all(|| ReplicaError::Stopped(stopped.clone()))
                    .await;
            }
        }
    }

    async fn refuse_all(&mut self, error: impl Fn() -> ReplicaError) {
        for request in self.waiting.drain(..) {
            request.refuse(error());
        }
        loop {
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => break,
                request = self.requests.recv() => match request {
                    Some(request) => request.refuse(error()),
                    None => break,
                },
            }
        }
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            request.refuse(error());
        }
    }

    async fn begin(&mut self) -> Result<(), End> {
        self.join().await?;
        self.catch_up().await
    }

    /// Waits until the other nodes know where this one is: what it needs is kept from then on.
    async fn join(&mut self) -> Result<(), End> {
        loop {
            let joining = self.joining.borrow_and_update().clone();
            match joining {
                Joining::Told => return Ok(()),
                Joining::NotTold(error) => self.note_unreachable(&error),
                Joining::Begun => {}
            }
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => return Err(End::Asked),
                changed = self.joining.changed() => if changed.is_err() {
                    // Nobody tells any more. What isn't kept is noticed.
                    return Ok(());
                }
            }
        }
    }

    /// Follows up to where the stream ended at some moment since the start: before that a plan would be for
    /// nothing.
    async fn catch_up(&mut self) -> Result<(), End> {
        let mut pause = self.pace.pause_min;
        let target = loop {
            match self.stream.last(self.number).await {
                Ok(last) if last < self.position.sequence => self.suspect(last)?,
                Ok(last) => break last,
                Err(error) => self.note_unreachable(&error),
            }
            self.rest_for(&mut pause).await?;
        };
        self.note_reached();
        while self.position.sequence < target {
            match self.follow().await? {
                0 => self.rest_for(&mut pause).await?,
                _ => pause = self.pace.pause_min,
            }
            self.note_position_if_due().await?;
        }
        self.status.send_modify(|status| status.is_caught_up = true);
        Ok(())
    }

    /// Own requests don't wait until there is nothing to follow: on a shard where others write all the time there
    /// always is something. Only what is known to stand in front is placed first, since a message is refused then.
    async fn work(&mut self) -> End {
        let mut is_time_to_look = true;
        loop {
            self.take_requests();
            let had_waiting = !self.waiting.is_empty();
            let turn = match had_waiting {
                true => self.follow_then_publish().await,
                false if is_time_to_look => self.follow().await,
                false => self.follow_announced().await,
            };
            is_time_to_look = false;
            let followed = match turn {
                Ok(followed) => followed,
                Err(end) => return end,
            };
            if let Err(stopped) = self.note_position_if_due().await {
                return stopped.into();
            }
            if had_waiting || followed > 0 {
                if *self.is_ending.borrow() {
                    return End::Asked;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => return End::Asked,
                request = self.requests.recv() => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => return End::Asked,
                },
                () = self.stream.changed(self.number) => {}
                () = sleep(self.pace.look_every) => is_time_to_look = true,
            }
        }
    }

    async fn follow_then_publish(&mut self) -> Result<usize, End> {
        let rounds = self.rounds.clone();
        let turn = rounds.enter().await;
        self.take_requests();
        let followed = self.follow_announced().await?;
        Ok(followed + self.publish_waiting(turn).await?)
    }

    fn take_requests(&mut self) {
        while self.waiting.len() < WAITING_MAX {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(_) => return,
            }
        }
    }

    /// Plans what waits, and sees to it that its message stands, or never will: what stands right behind the
    /// position that it was planned for decides that. Until then nothing else is published. Where others were
    /// first, what they have published is followed; says how many messages that was.
    async fn publish_waiting(&mut self, mut turn: Option<Turn<'_>>) -> Result<usize, End> {
        let planner = Planner {
            store: &self.store,
            node: self.node,
            position: self.position,
            message_bytes_max: self.stream.message_bytes_max().min(MESSAGE_BYTES_MAX),
        };
        let Some(mut attempt) = planner.plan(&mut self.waiting).await else {
            drop(turn);
            // Where all is refused, nothing else would tell what others have published.
            return self.follow().await;
        };
        if is_planted(Bug::AnsweredBeforeAck) {
            attempt.answer();
        }
        let (expected, id) = (self.position.sequence, attempt.id());
        let mut pause = self.pace.pause_min;
        let begun = Instant::now();
        loop {
            let bytes = attempt.bytes.clone();
            let published = self.stream.publish(self.number, expected, id, bytes).await;
            // Also where it isn't settled: others don't wait for that.
            drop(turn.take());
            let error = match published {
                Ok(sequence) => return self.accept(attempt, sequence, begun).await,
                Err(error) => error,
            };
            if let PublishError::Unsettled(why) = &error {
                self.note_unacknowledged(why);
                if is_planted(Bug::PublishedBlindly) {
                    attempt.put_back(&mut self.waiting);
                    return self.follow().await;
                }
            }
            match self.stream.next(self.number, expected).await {
                Ok(Some((sequence, bytes))) => {
                    self.note_reached();
                    let message = self.read(sequence, &bytes)?;
                    if message.id == id {
                        return self.accept(attempt, sequence, begun).await;
                    }
                    // It isn't what stands right behind: that may have been ours.
                    if let Err(stopped) = self.check_chain(sequence, &message) {
                        attempt.give_up();
                        return Err(stopped.into());
                    }
                    attempt.put_back(&mut self.waiting);
                    self.note_acknowledged();
                    self.status.send_modify(|status| status.conflicts += 1);
                    self.take_other(sequence, message).await?;
                    return Ok(1 + self.follow().await?);
                }
                // Perhaps it isn't there, perhaps that server is behind. The very same message may be sent
                // again: it can stand but once.
                Ok(None) => self.see_end(&error).await?,
                Err(error) => self.note_unreachable(&error),
            }
            if let Err(end) = self.rest_for(&mut pause).await {
                attempt.give_up();
                return Err(end);
            }
        }
    }

    /// Our message stands: its changes are placed, and those who wait are answered, also where this node's disk
    /// keeps it from being placed here, since a quorum has it.
    async fn accept(
        &mut self,
        mut attempt: Attempt,
        sequence: u64,
        begun: Instant,
    ) -> Result<usize, End> {
        self.note_acknowledged();
        self.metrics.publish_us.observe_us(begun.elapsed());
        self.metrics
            .message_entries
            .observe(attempt.message.entry_count());
        self.status.send_modify(|status| status.published += 1);
        let placed = self.take(sequence, attempt.message.clone()).await;
        attempt.answer();
        placed.map(|()| 0)
    }

    /// Places what the stream has told by itself; says how many messages that was.
    async fn follow_announced(&mut self) -> Result<usize, End> {
        for followed in 0..FOLLOWED_AT_ONCE_MAX {
            match self.stream.announced(self.number, self.position.sequence) {
                Announced::Next(sequence, bytes) => {
                    self.note_reached();
                    let message = self.read(sequence, &bytes)?;
                    self.take_other(sequence, message).await?;
                }
                Announced::Gap => return Ok(followed + self.follow().await?),
                Announced::Nothing => return Ok(followed),
            }
        }
        Ok(FOLLOWED_AT_ONCE_MAX)
    }

    /// Asks for what others have published, and places it; says how many messages that was.
    async fn follow(&mut self) -> Result<usize, End> {
        for followed in 0..FOLLOWED_AT_ONCE_MAX {
            match self.stream.next(self.number, self.position.sequence).await {
                Ok(Some((sequence, bytes))) => {
                    self.note_reached();
                    let message = self.read(sequence, &bytes)?;
                    self.take_other(sequence, message).await?;
                }
                Ok(None) => {
                    self.note_reached();
                    return Ok(followed);
                }
                Err(error) => {
                    self.note_unreachable(&error);
                    return Ok(followed);
                }
            }
        }
        Ok(FOLLOWED_AT_ONCE_MAX)
    }

    fn read(&self, sequence: u64, bytes: &Bytes) -> Result<Message, Stopped> {
        Message::decode(bytes).map_err(|error| Stopped::Unreadable {
            shard: self.number,
            sequence,
            error,
        })
    }

    async fn take_other(&mut self, sequence: u64, message: Message) -> Result<(), End> {
        self.take(sequence, message).await?;
        self.status.send_modify(|status| status.followed += 1);
        Ok(())
    }

    /// Places the message that stands behind our position, which is its own then.
    async fn take(&mut self, sequence: u64, message: Message) -> Result<(), End> {
        self.check_chain(sequence, &message)?;
        let position = Position {
            sequence,
            id: message.id,
        };
        if is_planted(Bug::ProgressLeads) {
            self.position = position;
            self.note_position().await?;
        }
        let placed = place(&self.store, message, &self.pace, &mut self.is_ending).await;
        let shard = self.number;
        placed.map_err(|not_placed| match not_placed {
            NotPlaced::Store(what) => Stopped::Disk { shard, what },
            NotPlaced::Files(experiment, what) => Stopped::Files {
                shard,
                experiment,
                what,
            },
        })?;
        self.position = position;
        self.diverged_looks = 0;
        self.status.send_modify(|status| status.position = position);
        Ok(())
    }

    /// Whether this message is what stands right behind our position.
    fn check_chain(&self, sequence: u64, message: &Message) -> Result<(), Stopped> {
        let (said, known) = (message.previous, self.position);
        if said == known || is_planted(Bug::GapPassedOver) {
            return Ok(());
        }
        // It is the first one behind us, so what was between is gone.
        if said.sequence > known.sequence {
            return Err(Stopped::Behind {
                shard: self.number,
                placed: known.sequence,
                kept: said.sequence,
            });
        }
        let what = format!(
            "message {sequence} was written behind {} {}, and this node is behind {} {}",
            said.sequence, said.id, known.sequence, known.id
        );
        Err(self.diverged(what))
    }

    /// Nothing is behind us, and a message that is to stand there was refused: does the stream end in front?
    async fn see_end(&mut self, error: &PublishError) -> Result<(), End> {
        if *error != PublishError::NotExpected {
            return Ok(());
        }
        match self.stream.last(self.number).await {
            Ok(last) if last < self.position.sequence => self.suspect(last)?,
            Ok(_) => self.diverged_looks = 0,
            Err(error) => self.note_unreachable(&error),
        }
        Ok(())
    }

    fn suspect(&mut self, last: u64) -> Result<(), Stopped> {
        self.diverged_looks += 1;
        if self.diverged_looks < DIVERGED_LOOKS {
            return Ok(());
        }
        let known = self.position.sequence;
        let what = format!("it ends with message {last}, and this node has placed message {known}");
        Err(self.diverged(what))
    }

    fn diverged(&self, what: String) -> Stopped {
        Stopped::Diverged {
            shard: self.number,
            what,
        }
    }

    fn note_unreachable(&self, error: &Unreachable) {
        let is_new = self.status.borrow().unreachable_since.is_none();
        if is_new {
            warn!(shard = self.number, "{error}");
            let now = Instant::now();
            self.status
                .send_modify(|status| status.unreachable_since = Some(now));
        }
    }

    fn note_unacknowledged(&self, why: &str) {
        let is_new = self.status.borrow().unacknowledged_since.is_none();
        if is_new {
            warn!(shard = self.number, "a message is not acknowledged: {why}");
            let now = Instant::now();
            self.status
                .send_modify(|status| status.unacknowledged_since = Some(now));
        }
    }

    fn note_acknowledged(&self) {
        self.note_reached();
        let was_waited_for = self.status.borrow().unacknowledged_since.is_some();
        if was_waited_for {
            info!(shard = self.number, "messages are acknowledged again");
            self.status
                .send_modify(|status| status.unacknowledged_since = None);
        }
    }

    fn note_reached(&self) {
        let was_unreachable = self.status.borrow().unreachable_since.is_some();
        if was_unreachable {
            info!(shard = self.number, "the stream answers again");
            self.status
                .send_modify(|status| status.unreachable_since = None);
        }
    }

    async fn rest_for(&mut self, pause: &mut Duration) -> Result<(), End> {
        let now = *pause;
        *pause = (now * 2).min(self.pace.pause_max);
        tokio::select! {
            biased;
            () = ended(&mut self.is_ending) => Err(End::Asked),
            () = sleep(now) => Ok(()),
        }
    }

    async fn note_position_if_due(&mut self) -> Result<(), Stopped> {
        let (noted, at) = self.noted;
        let is_far = self.position.sequence - noted.sequence >= NOTED_EVERY;
        if is_far || at.elapsed() >= self.pace.note_every {
            self.note_position().await?;
        }
        Ok(())
    }

    /// Notes how far this node is. It may lag: what is placed again is passed over. A store that takes no writes
    /// any more may have lost what was placed: it must be opened anew, and the node go on from its last note.
    async fn note_position(&mut self) -> Result<(), Stopped> {
        if self.noted.0 == self.position {
            return Ok(());
        }
        self.noted.1 = Instant::now();
        match notes::write_position(&self.store, self.number, self.position).await {
            Ok(()) => {
                let position = self.position;
                self.noted.0 = position;
                self.status
                    .send_modify(|status| status.noted = position.sequence);
            }
            Err(error @ PlaceError::Stopped) => {
                return Err(Stopped::Disk {
                    shard: self.number,
                    what: error.to_string(),
                });
            }
            Err(error) => warn!(shard = self.number, %error, "noting how far this node is"),
        }
        Ok(())
    }
}

/// Returns when the node is to end.
///
/// Cancellation: nothing is lost when the future is dropped.
pub(super) async fn ended(is_ending: &mut watch::Receiver<bool>) {
    // An error: whoever would say so has gone.
    let _ended = is_ending.wait_for(|is_ending| *is_ending).await;
}
