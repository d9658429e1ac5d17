//! Sends requests over many connections from one thread, and hears their answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::{Events, Poll, Token};

use super::alarm::Alarm;
use super::answer::Answer;
use super::connection::Connection;
use super::meter::Meter;
use super::pace::Pace;
use super::wire::Address;

/// How long answers are waited for once no more requests are sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for something to happen: how soon a wish to stop is heard.
const WAIT_MAX: Duration = Duration::from_millis(50);
const ALARM: Token = Token(usize::MAX);

/// What is sent, and who takes note of what becomes of it.
pub trait Work {
    /// What is remembered of a request until its answer.
    type Ticket;
    /// Writes the next request to `out`, which is empty.
    fn next(&mut self, out: &mut Vec<u8>) -> Self::Ticket;
    /// A request was answered. An error ends the run.
    fn answered(&mut self, ticket: Self::Ticket, answer: &Answer<'_>) -> Result<()>;
    /// A request will never be answered.
    fn lost(&mut self, ticket: Self::Ticket);
}

/// Connections to one server, each with at most one request on it.
pub struct Driver<'s, T> {
    address: Address,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    slots: Vec<Slot<T>>,
    /// Slots without a request.
    free: Vec<usize>,
    /// Set when the run is to end early.
    stop: &'s AtomicBool,
}

struct Slot<T> {
    /// None when it has ended, until it is needed again.
    connection: Option<Connection>,
    request: Option<Request<T>>,
}

struct Request<T> {
    ticket: T,
    /// When it should have been sent.
    begun: Instant,
}

impl<'s, T> Driver<'s, T> {
    pub fn connect(address: Address, count: usize, stop: &'s AtomicBool) -> Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let mut driver = Self {
            address,
            poll,
            events: Events::with_capacity(count.clamp(64, 4096)),
            alarm,
            slots: Vec::with_capacity(count),
            free: (0..count).rev().collect(),
            stop,
        };
        for at in 0..count {
            let connection = driver.open(at)?;
            driver.slots.push(Slot {
                connection: Some(connection),
                request: None,
            });
        }
        Ok(driver)
    }

    /// Sends until `end`, then waits for the answers to what was sent. Everything that was begun is
    /// measured, so that the slowest at the end don't go missing.
    pub fn run<W: Work<Ticket = T>>(
        &mut self,
        mut pace: Pace,
        work: &mut W,
        meter: &mut Meter,
        end: Instant,
    ) -> Result<()> {
        meter.begin_round(Instant::now());
        self.send_until(end, &mut pace, work, meter)?;
        self.drain(work, meter)?;
        meter.left_unsent(pace.unsent());
        meter.end_round(Instant::now())
    }

    /// Sends at this pace until `end`.
    pub fn send_until<W: Work<Ticket = T>>(
        &mut self,
        end: Instant,
        pace: &mut Pace,
        work: &mut W,
        meter: &mut Meter,
    ) -> Result<()> {
        let mut now = Instant::now();
        self.send_due(now, pace, work, meter)?;
        while now < end && !self.stop.load(Ordering::Relaxed) {
            if let Some(next) = pace.next()
                && !self.free.is_empty()
            {
                self.alarm.set(next, now)?;
            }
            self.wait(WAIT_MAX.min(end - now))?;
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                let Token(at) = event.token();
                if self.advance(at, work, meter)? {
                    now = Instant::now();
                    pace.answered(now);
                    if now < end {
                        self.send_due(now, pace, work, meter)?;
                    }
                }
            }
            self.events = events;
            now = Instant::now();
            if now < end {
                self.send_due(now, pace, work, meter)?;
            }
            meter.tick(now)?;
        }
        if now >= end {
            // Whose time came while the last events were seen to. What can't be sent now is late by
            // the server's fault.
            self.send_due(end, pace, work, meter)?;
        }
        Ok(())
    }

    /// Waits for the answers to all that was sent. What isn't answered then is lost.
    pub fn drain<W: Work<Ticket = T>>(&mut self, work: &mut W, meter: &mut Meter) -> Result<()> {
        let end = Instant::now() + DRAIN_TIMEOUT;
        while self.free.len() < self.slots.len() {
            let now = Instant::now();
            if now >= end {
                break;
            }
            self.wait(WAIT_MAX.min(end - now))?;
            let waiting: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for at in waiting {
                self.advance(at, work, meter)?;
            }
            meter.tick(Instant::now())?;
        }
        for at in 0..self.slots.len() {
            if self
                .slots
                .get(at)
                .is_some_and(|slot| slot.request.is_some())
            {
                self.lose(at, "no_answer", work, meter);
            }
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn send_due<W: Work<Ticket = T>>(
        &mut self,
        now: Instant,
        pace: &mut Pace,
        work: &mut W,
        meter: &mut Meter,
    ) -> Result<()> {
        while let Some(&at) = self.free.last() {
            let Some(begun) = pace.take(now) else { break };
            self.reopen(at)?;
            self.free.pop();
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            let Some(connection) = &mut slot.connection else {
                continue;
            };
            let (ticket, sent) = connection.send(|out| work.next(out));
            slot.request = Some(Request { ticket, begun });
            if sent.is_err() {
                self.lose(at, "connection_lost", work, meter);
                pace.answered(now);
            }
        }
        Ok(())
    }

    /// Moves a connection on. Says whether its request is done with.
    fn advance<W: Work<Ticket = T>>(
        &mut self,
        at: usize,
        work: &mut W,
        meter: &mut Meter,
    ) -> Result<bool> {
        let Some(slot) = self.slots.get_mut(at) else {
            return Ok(false);
        };
        let Some(connection) = &mut slot.connection else {
            return Ok(false);
        };
        let moved = connection.flush().and_then(|()| connection.receive());
        // What came before an end still counts.
        let answer = connection.answer()?;
        let Some(answer) = answer else {
            if moved.is_ok() {
                return Ok(false);
            }
            return Ok(self.lose(at, "connection_lost", work, meter));
        };
        let Some(request) = slot.request.take() else {
            slot.connection = None;
            return Ok(false);
        };
        match answer.is_ok() {
            true => meter.acknowledged(request.begun.elapsed()),
            false => meter.failed(answer.code()),
        }
        work.answered(request.ticket, &answer)?;
        let (len, is_last) = (answer.len, answer.is_last);
        if connection.forget_answer(len) || is_last || moved.is_err() {
            slot.connection = None;
        }
        self.free.push(at);
        Ok(true)
    }

    /// A connection is at its end. Says whether there was a request on it.
    fn lose<W: Work<Ticket = T>>(
        &mut self,
        at: usize,
        code: &str,
        work: &mut W,
        meter: &mut Meter,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        slot.connection = None;
        let Some(request) = slot.request.take() else {
            return false;
        };
        meter.failed(code.into());
        work.lost(request.ticket);
        self.free.push(at);
        true
    }

    /// Opens a connection again that has ended.
    fn reopen(&mut self, at: usize) -> Result<()> {
        let is_open = |slot: &Slot<T>| slot.connection.is_some();
        if self.slots.get(at).is_none_or(is_open) {
            return Ok(());
        }
        let opened = self.open(at).context("the server has gone")?;
        if let Some(slot) = self.slots.get_mut(at) {
            slot.connection = Some(opened);
        }
        Ok(())
    }

    fn open(&self, at: usize) -> Result<Connection> {
        Connection::open(&self.address, self.poll.registry(), Token(at))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Sends numbers, and wants the same back.
    struct Echo<'s> {
        sent: u64,
        answered: u64,
        lost: u64,
        enough: u64,
        stop: &'s AtomicBool,
    }

    impl Work for Echo<'_> {
        type Ticket = u64;

        fn next(&mut self, out: &mut Vec<u8>) -> u64 {
            self.sent += 1;
            out.extend_from_slice(format!("GET /{} HTTP/1.1\r\n\r\n", self.sent).as_bytes());
            self.sent
        }

        fn answered(&mut self, ticket: u64, answer: &Answer<'_>) -> Result<()> {
            let text = std::str::from_utf8(answer.body)?.trim_start_matches('0');
            assert_eq!(text, ticket.to_string(), "each hears of its own request");
            self.answered += 1;
            self.stop
                .store(self.answered >= self.enough, Ordering::Relaxed);
            Ok(())
        }

        fn lost(&mut self, _ticket: u64) {
            self.lost += 1;
        }
    }

    /// Answers on one connection with the number that was asked for, behind zeros: every third time
    /// it ends the connection, and says so; every seventh time it does without an answer.
    fn serve(stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            let number = line.split(['/', ' ']).nth(2).unwrap().to_owned();
            reader.read_line(&mut line).unwrap();
            line.clear();
            let n: u64 = number.parse().unwrap();
            if n.is_multiple_of(7) {
                return;
            }
            let is_last = n.is_multiple_of(3);
            // Some are larger than a buffer, and come in two pieces.
            let len = if n.is_multiple_of(5) { 60_000 } else { 8 };
            let end = if is_last { "connection: close\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\n{end}content-length: {len}\r\n\r\n");
            let answer = format!("{head}{number:0>len$}");
            let (one, two) = answer.split_at(head.len() / 2);
            for piece in [one, two] {
                (&stream).write_all(piece.as_bytes()).unwrap();
            }
            if is_last {
                return;
            }
        }
    }

    #[test]
    fn answers_in_pieces_and_connections_that_end_are_no_riddle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream));
            }
        });
        let stop = AtomicBool::new(false);
        for clients in [1, 5, 20] {
            stop.store(false, Ordering::Relaxed);
            let mut work = Echo {
                sent: 0,
                answered: 0,
                lost: 0,
                enough: 1000,
                stop: &stop,
            };
            let mut driver =
                Driver::connect(Address::plain(address), 5.min(clients), &stop).unwrap();
            let mut meter = Meter::new("echo", 1, None).unwrap();
            let begin = Instant::now();
            let pace = Pace::closed(clients, begin);
            let end = begin + Duration::from_secs(60);
            driver.run(pace, &mut work, &mut meter, end).unwrap();
            let measured = meter.measured();
            assert_eq!(work.sent, work.answered + work.lost);
            assert_eq!(work.lost, work.sent / 7);
            assert_eq!(measured.entries(), work.answered);
            assert_eq!(measured.errors.get("connection_lost"), Some(&work.lost));
            assert!(work.answered >= 1000, "it went on over all that");
        }
    }

    #[test]
    fn a_server_that_is_gone_ends_the_run_in_a_sentence() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = AtomicBool::new(false);
        let mut driver = Driver::connect(Address::plain(address), 1, &stop).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        drop(listener);
        let ending = std::thread::spawn(move || {
            // The request has come; nobody answers it.
            assert!(accepted.read(&mut [0; 1]).unwrap() > 0);
        });
        let mut work = Echo {
            sent: 0,
            answered: 0,
            lost: 0,
            enough: 1,
            stop: &stop,
        };
        let mut meter = Meter::new("echo", 1, None).unwrap();
        let begin = Instant::now();
        let pace = Pace::closed(1, begin);
        let end = begin + Duration::from_secs(60);
        let error = driver.run(pace, &mut work, &mut meter, end).unwrap_err();
        assert!(format!("{error:#}").contains("the server has gone: can't reach"));
        assert_eq!(work.lost, 1);
        ending.join().unwrap();
    }
}
