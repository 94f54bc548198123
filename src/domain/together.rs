//! What several requests hand to one thread, those of one turn of a worker's loop together.
//!
//! WHY: waking another thread, and being woken by it, costs more than most of what is handed over. Under load many requests
//! come to the same point in one turn of the loop, and go there and back at the price of one. A turn is over soon
//! whatever the load, so nobody waits for company.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::spawn;

/// More than workers mostly are. Two that share one take along what the other has.
const SHARDS: usize = 16;

/// Hands things over; the answer, if somebody waits for it, is for all of them.
type HandOver<T, A> = Box<dyn Fn(Vec<T>, Option<oneshot::Sender<A>>) + Send + Sync>;

/// The way of things to one thread, and of its answers back. Whoever adds bounds how many there are.
pub struct Together<T, A> {
    shared: Arc<Shared<T, A>>,
}

struct Shared<T, A> {
    shards: [Mutex<Shard<T, A>>; SHARDS],
    hand_over: HandOver<T, A>,
}

struct Shard<T, A> {
    things: Vec<T>,
    waiting: Vec<oneshot::Sender<A>>,
}

impl<T: Send + 'static, A: Clone + Send + 'static> Together<T, A> {
    /// `hand_over` must not wait. A sender that it drops is an answer too: that there is none.
    pub fn new(hand_over: impl Fn(Vec<T>, Option<oneshot::Sender<A>>) + Send + Sync + 'static) -> Self {
        let empty = || {
            Mutex::new(Shard {
                things: Vec::new(),
                waiting: Vec::new(),
            })
        };
        Self {
            shared: Arc::new(Shared {
                shards: std::array::from_fn(|_| empty()),
                hand_over: Box::new(hand_over),
            }),
        }
    }

    /// Adds a thing, which is handed over once all that is ready on this thread has run, whatever becomes of the caller. On a
    /// runtime's thread only.
    pub fn add(&self, thing: T, waiting: Option<oneshot::Sender<A>>) {
        let shard = own_shard();
        let is_first = {
            let mut gathered = self.shared.shards[shard].lock();
            gathered.things.push(thing);
            gathered.waiting.extend(waiting);
            gathered.things.len() == 1
        };
        if is_first {
            let shared = Arc::clone(&self.shared);
            drop(spawn::spawn(
                "hand over",
                async move { shared.carry(shard).await },
            ));
        }
    }

    /// Adds a thing and waits for the answer; `None`: there is none.
    pub async fn ask(&self, thing: T) -> Option<A> {
        let (waiting, answer) = oneshot::channel();
        self.add(thing, Some(waiting));
        answer.await.ok()
    }

    /// Hands everything over now that was added before, also what a thread that has ended left behind.
    pub fn hand_over_all(&self) {
        for shard in 0..SHARDS {
            let things = std::mem::take(&mut self.shared.shards[shard].lock().things);
            if !things.is_empty() {
                // those who wait hear of it by their own turn, after this
                (self.shared.hand_over)(things, None);
            }
        }
    }
}

impl<T, A: Clone> Shared<T, A> {
    /// The other thread tells this task alone, and this task the others: they are on its own thread, where that is cheap.
    async fn carry(&self, shard: usize) {
        let (things, waiting) = {
            let mut gathered = self.shards[shard].lock();
            (
                std::mem::take(&mut gathered.things),
                std::mem::take(&mut gathered.waiting),
            )
        };
        if waiting.is_empty() {
            if !things.is_empty() {
                (self.hand_over)(things, None);
            }
            return;
        }
        let (done, answer) = oneshot::channel();
        (self.hand_over)(things, Some(done));
        if let Ok(answer) = answer.await {
            for waits in waiting {
                // who has left need not hear of it
                let _ = waits.send(answer.clone());
            }
        }
    }
}

fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    SHARD.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::Poll;

    use super::*;

    type Seen = Arc<Mutex<Vec<Vec<u32>>>>;

    fn adder() -> (Together<u32, u32>, Seen) {
        let seen = Seen::default();
        let kept = Arc::clone(&seen);
        let together = Together::new(move |things: Vec<u32>, done: Option<oneshot::Sender<u32>>| {
            if let Some(done) = done {
                done.send(things.iter().sum()).unwrap();
            }
            kept.lock().push(things);
        });
        (together, seen)
    }

    #[tokio::test]
    async fn what_is_ready_in_one_turn_goes_together_and_all_hear_the_answer() {
        let (together, seen) = adder();
        let answers = futures_util::future::join_all((1..=10).map(|n| together.ask(n))).await;
        assert_eq!(answers, [Some(55); 10]);
        assert_eq!(together.ask(7).await, Some(7));
        assert_eq!(*seen.lock(), [(1..=10).collect(), vec![7]]);
    }

    #[tokio::test]
    async fn who_leaves_takes_nothing_along() {
        let (together, seen) = adder();
        {
            let mut leaving = Box::pin(together.ask(1));
            let poll =
                std::future::poll_fn(|context| Poll::Ready(leaving.as_mut().poll(context).is_pending()));
            assert!(poll.await);
        }
        together.add(2, None);
        assert_eq!(together.ask(3).await, Some(6));
        assert_eq!(*seen.lock(), [[1, 2, 3]]);
    }

    #[tokio::test]
    async fn no_answer_is_heard_as_none_and_the_rest_can_be_taken_at_once() {
        let silent: Together<u32, u32> = Together::new(|_, done| drop(done));
        assert_eq!(silent.ask(1).await, None);
        let (together, seen) = adder();
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            // its turn never ends
            runtime.block_on(async { together.add(5, None) });
            together
        });
        let together = worker.join().unwrap();
        together.hand_over_all();
        together.hand_over_all();
        assert_eq!(*seen.lock(), [[5]]);
    }
}
