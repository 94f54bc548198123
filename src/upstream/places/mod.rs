//! The places at one provider: how many requests it answers at a time.
//!
//! Whoever finds no place free waits in one line, first come, first served. A place that becomes free goes to the head of
//! the line, never to a newcomer. The number of those inside is an atomic, so that a provider without a limit costs no lock;
//! the line is behind a mutex. Those who leave look whether somebody waits *after* they have left, those who wait look for a
//! free place *after* they stand in the line: one of the two sees the other, because all of it is sequentially consistent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// What `most` holds when there is no limit: more than can ever be inside.
const UNLIMITED: u32 = u32::MAX;

/// How many may be inside and how many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Requests inside at a time; none: as many as come.
    pub most: Option<u32>,
    /// Requests that wait at a time; above, they are refused at once.
    pub queue: u32,
}

/// Why there was no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// As many wait as may.
    QueueFull,
    /// None became free in time.
    Overtime,
}

/// The places at one provider. They outlive a configuration: the next one sets its limits on the same places.
pub struct Places {
    most: AtomicU32,
    running: AtomicU32,
    /// The length of the line, for those who leave.
    waiting: AtomicU32,
    line: Mutex<Line>,
}

/// Those who wait, by their numbers: the lowest came first.
struct Line {
    most_waiting: u32,
    next_number: u64,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("running", &self.running())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl Places {
    /// Places that are all free.
    pub fn new(limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicU32::new(limits.most.unwrap_or(UNLIMITED)),
            running: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            line: Mutex::new(Line {
                most_waiting: limits.queue,
                next_number: 0,
                waiting: BTreeMap::new(),
            }),
        })
    }

    /// Changes the limits. More places let those who wait in at once; fewer only stop new entries, and a shorter line only
    /// those who come to it from now on.
    pub fn set(&self, limits: PlaceLimits) {
        let mut line = self.line.lock();
        line.most_waiting = limits.queue;
        self.most.store(limits.most.unwrap_or(UNLIMITED), SeqCst);
        self.hand_out(&mut line);
    }

    /// A place, if one is free and nobody waits for it.
    pub fn try_enter(self: &Arc<Self>) -> Option<Place> {
        if let Some(place) = self.enter_unlimited() {
            return Some(place);
        }
        let line = self.line.lock();
        (line.waiting.is_empty() && self.take(&line)).then(|| self.place())
    }

    /// A place, waiting for it in the line until `until`. Dropping the future leaves the line.
    pub async fn enter(self: &Arc<Self>, until: Instant) -> Result<Place, NoPlace> {
        if let Some(place) = self.enter_unlimited() {
            return Ok(place);
        }
        let (waiting, handed) = match self.enter_or_join()? {
            Entry::In(place) => return Ok(place),
            Entry::Line(waiting, handed) => (waiting, handed),
        };
        // The line knows better than the outcome: a place handed over at the last moment is taken, not lost.
        let _ = timeout_at(until, handed).await;
        waiting.end().ok_or(NoPlace::Overtime)
    }

    /// How many are inside, those counted to whom a place is handed this moment.
    pub fn running(&self) -> u32 {
        self.running.load(SeqCst)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// A place without the lock, when there is no limit.
    fn enter_unlimited(self: &Arc<Self>) -> Option<Place> {
        if self.most.load(SeqCst) != UNLIMITED {
            return None;
        }
        self.running.fetch_add(1, SeqCst);
        // WHY: a limit may have come in between, and those whom it let in did not count this one.
        if self.most.load(SeqCst) == UNLIMITED {
            return Some(self.place());
        }
        self.leave();
        None
    }

    fn enter_or_join(self: &Arc<Self>) -> Result<Entry<'_>, NoPlace> {
        let mut line = self.line.lock();
        if line.waiting.is_empty() && self.take(&line) {
            return Ok(Entry::In(self.place()));
        }
        if line.waiting.len() >= line.most_waiting as usize {
            return Err(NoPlace::QueueFull);
        }
        let number = line.next_number;
        line.next_number += 1;
        let (hand, handed) = oneshot::channel();
        line.waiting.insert(number, hand);
        self.waiting.fetch_add(1, SeqCst);
        self.hand_out(&mut line);
        let waiting = Waiting {
            places: self,
            number,
            ended: false,
        };
        Ok(Entry::Line(waiting, handed))
    }

    /// Counts one more inside if there is room. Only who holds the line may: between the look and the count nobody else comes.
    fn take(&self, _line: &Line) -> bool {
        let free = self.running.load(SeqCst) < self.most.load(SeqCst);
        if free {
            self.running.fetch_add(1, SeqCst);
        }
        free
    }

    /// What [`Self::take`] counted, as a value.
    fn place(self: &Arc<Self>) -> Place {
        Place {
            places: Arc::clone(self),
        }
    }

    /// Lets in from the head of the line as many as there is room for.
    fn hand_out(&self, line: &mut Line) {
        while !line.waiting.is_empty() && self.take(line) {
            if let Some((_, hand)) = line.waiting.pop_first() {
                self.waiting.fetch_sub(1, SeqCst);
                // Whoever is gone by now gives the place back when its `Waiting` is dropped.
                let _ = hand.send(());
            }
        }
    }

    fn leave(&self) {
        self.running.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.hand_out(&mut self.line.lock());
        }
    }

    /// Takes one out of the line. False: it is not there any more, a place has been handed to it.
    fn leave_line(&self, number: u64) -> bool {
        let stood = self.line.lock().waiting.remove(&number).is_some();
        if stood {
            self.waiting.fetch_sub(1, SeqCst);
        }
        stood
    }
}

enum Entry<'a> {
    In(Place),
    Line(Waiting<'a>, oneshot::Receiver<()>),
}

/// One in the line. Dropped, it leaves it, and a place that was handed to it goes to the next.
struct Waiting<'a> {
    places: &'a Arc<Places>,
    number: u64,
    ended: bool,
}

impl Waiting<'_> {
    /// Ends the waiting: the place that was handed over, or none.
    fn end(mut self) -> Option<Place> {
        self.ended = true;
        (!self.places.leave_line(self.number)).then(|| self.places.place())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended && !self.places.leave_line(self.number) {
            self.places.leave();
        }
    }
}

/// One place at a provider. Dropping it hands it to whoever has waited longest.
#[derive(Debug)]
#[must_use = "dropping it gives the place up"]
pub struct Place {
    places: Arc<Places>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave();
    }
}

#[cfg(test)]
mod tests;
