//! Groups that the journal, which is stuck, refuses in the middle of an actor's turn: fixed orders of
//! events, which a seed would hardly draw.

use super::*;

/// So many polls let everybody go on as far as they can, and so many commits answer everybody.
const POLLS: usize = 32;
const COMMITS: usize = 8;

type Told = Result<Vec<LogId>, AppendError>;

/// A run whose journal is stuck, with one actor that has met a key.
struct Stuck<'r> {
    run: Run<'r>,
    /// In the order in which they asked; none once it was answered.
    asking: Vec<Option<Client>>,
    told: Vec<Option<Told>>,
}

impl<'r> Stuck<'r> {
    fn new(runtime: &'r Runtime) -> Self {
        let mut stuck = Self {
            run: Run::with(runtime, fastrand::Rng::with_seed(0), 32 << 10, 64),
            asking: Vec::new(),
            told: Vec::new(),
        };
        let met = stuck.send(b"m");
        stuck.settle();
        stuck.commit();
        assert!(stuck.told(met).is_ok());
        stuck.run.fill_or_make_room();
        while stuck.run.met.waited == 0 {
            let body = stuck.run.body(false);
            stuck.ask(vec![(None, body)]);
            stuck.settle();
            stuck.commit();
        }
        assert_eq!(stuck.run.journal.health(), JournalHealth::Ready);
        stuck
    }

    /// A client sends these entries, each with a key of its own; says which client it is. Its message is
    /// in the mailbox then.
    fn send(&mut self, keys: &[u8]) -> usize {
        let body = |key: &u8| format!(r#"{{"variantKey":"A","input":{{"key":{key}}}}}"#);
        let entries = keys.iter().map(|key| (Some(*key), body(key).into()));
        self.ask(entries.collect())
    }

    fn ask(&mut self, entries: Vec<(Option<u8>, Bytes)>) -> usize {
        let bodies: Vec<Bytes> = entries.iter().map(|(_, body)| body.clone()).collect();
        let entries = entries.into_iter().map(|(key, body)| NewEntry {
            variant_key: "A".into(),
            idempotency: key.map(|key| idempotency(key - b'a', &body)),
            body,
        });
        let entries: Vec<NewEntry> = entries.collect();
        let store = self.run.store.clone();
        let permit = store.reserve(64).unwrap();
        self.add(Some((0, bodies)), async move {
            let slug = Slug::parse(NAMES[0]).unwrap();
            let appended = store.append_batch(&slug, entries, permit).await;
            Answer::Append(appended.map(|appended| appended.ids))
        })
    }

    /// A client asks for what takes the actor a moment, in which others have their turns.
    fn describe(&mut self) {
        let store = self.run.store.clone();
        self.add(None, async move {
            let described = store.describe(&Slug::parse(NAMES[0]).unwrap()).await;
            assert!(described.is_ok());
            Answer::Other
        });
    }

    fn add(
        &mut self,
        append: Option<(usize, Vec<Bytes>)>,
        future: impl Future<Output = Answer> + 'static,
    ) -> usize {
        self.run.add(append, future);
        self.asking.push(self.run.clients.pop());
        self.told.push(None);
        self.poll_clients();
        self.asking.len() - 1
    }

    fn poll_clients(&mut self) {
        for (asking, told) in self.asking.iter_mut().zip(&mut self.told) {
            let Some(client) = asking else { continue };
            if !client.woken.0.load(Ordering::Acquire) {
                continue;
            }
            let Poll::Ready(answer) = poll(self.run.runtime, client) else {
                continue;
            };
            let append = asking.take().and_then(|client| client.append);
            if let Answer::Append(result) = &answer {
                *told = Some(result.clone());
            }
            self.run.note(append, answer);
        }
        self.run.let_blocking_run();
    }

    /// Lets everybody go on who can, but for the journal.
    fn settle(&mut self) {
        for _ in 0..POLLS {
            self.run.poll_runtime();
            self.poll_clients();
        }
    }

    /// Commits what waits, and lets those who are answered go on.
    fn commit(&mut self) {
        for _ in 0..COMMITS {
            self.run.commit_or_answer();
            self.settle();
        }
    }

    /// The journal finds the disk full and refuses what waits; then there is room again, before the actor
    /// has another turn.
    fn refuse(&mut self) {
        let before = self.run.met.taken_back;
        self.run.checkpointer.step();
        assert_eq!(self.run.journal.health(), JournalHealth::Full);
        self.run.commit_or_answer();
        assert!(self.run.met.taken_back > before);
        self.run.fill_or_make_room();
        while self.run.journal.health() == JournalHealth::Full {
            self.run.checkpointer.step();
        }
    }

    fn told(&self, client: usize) -> &Told {
        self.told[client].as_ref().unwrap()
    }

    /// Answers everybody, shuts down and compares the logs.
    fn end(&mut self) {
        self.commit();
        assert!(self.asking.iter().all(Option::is_none), "all are answered");
        self.run.begin_shutdown();
        while !self.run.is_shut_down {
            self.run.poll_runtime();
            self.run.poll_shutdown();
            self.run.commit_or_answer();
        }
    }
}

#[test]
fn what_is_taken_back_is_stored_when_it_is_sent_again() {
    let runtime = runtime();
    let mut stuck = Stuck::new(&runtime);
    let refused = stuck.send(b"k");
    stuck.settle();
    stuck.refuse();
    stuck.settle();
    assert_eq!(stuck.told(refused), &Err(AppendError::StorageFull));
    let again = stuck.send(b"k");
    stuck.end();
    assert!(stuck.told(again).is_ok());
    stuck.run.check();
}

#[test]
fn a_batch_that_repeats_what_is_taken_back_is_refused() {
    let runtime = runtime();
    let mut stuck = Stuck::new(&runtime);
    let first = stuck.send(b"k");
    stuck.settle();
    // Its first entry is known; the actor's turn is not over when that is refused.
    let batch = stuck.send(b"kn");
    stuck.describe();
    stuck.run.poll_runtime();
    stuck.refuse();
    stuck.end();
    for client in [first, batch] {
        assert_eq!(stuck.told(client), &Err(AppendError::StorageFull));
    }
    stuck.run.check();
}

#[test]
fn a_repeat_behind_another_key_is_stored_once_when_groups_are_taken_back_in_between() {
    let runtime = runtime();
    let mut stuck = Stuck::new(&runtime);
    // All of one turn of the actor. The first is gathered when the groups before it are refused.
    let first = stuck.send(b"k");
    stuck.describe();
    let other = stuck.send(b"o");
    let again = stuck.send(b"k");
    stuck.run.poll_runtime();
    stuck.refuse();
    stuck.end();
    assert!(stuck.told(first).is_ok() && stuck.told(other).is_ok());
    assert_eq!(stuck.told(again), stuck.told(first));
    stuck.run.check();
}

#[test]
fn a_repeat_behind_one_of_what_is_taken_back_is_stored_once() {
    let runtime = runtime();
    let mut stuck = Stuck::new(&runtime);
    let refused = stuck.send(b"r");
    stuck.settle();
    // All of one turn of the actor, which waits for what the second one repeats.
    let first = stuck.send(b"k");
    let refused_again = stuck.send(b"r");
    let again = stuck.send(b"k");
    stuck.settle();
    stuck.refuse();
    stuck.end();
    for client in [refused, refused_again] {
        assert_eq!(stuck.told(client), &Err(AppendError::StorageFull));
    }
    assert!(stuck.told(first).is_ok());
    assert_eq!(stuck.told(again), stuck.told(first));
    stuck.run.check();
}
