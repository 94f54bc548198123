use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::spawn::spawn;

fn limits(most: u32, queue: u32) -> PlaceLimits {
    PlaceLimits {
        most: Some(most),
        queue,
    }
}

const UNLIMITED_PLACES: PlaceLimits = PlaceLimits { most: None, queue: 0 };

fn after(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Waits in the line as a task of its own; it stands there when this returns.
async fn waiter(places: &Arc<Places>, until: Instant) -> JoinHandle<Result<Place, NoPlace>> {
    let places = Arc::clone(places);
    let task = spawn("waiter", async move { places.enter(until).await });
    settle().await;
    task
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn without_a_limit_everybody_enters_and_is_counted() {
    let places = Places::new(UNLIMITED_PLACES);
    let inside: Vec<_> = (0..1000).map(|_| places.try_enter().expect("no limit")).collect();
    assert_eq!(places.running(), 1000);
    drop(inside);
    assert_eq!(places.running(), 0);
}

#[test]
fn without_a_limit_the_line_is_not_locked() {
    let places = Places::new(UNLIMITED_PLACES);
    let _locked = places.line.lock();
    let first = places.try_enter().expect("no limit");
    let second = places
        .enter(Instant::now())
        .now_or_never()
        .expect("at once")
        .expect("no limit");
    assert_eq!(places.running(), 2);
    drop((first, second));
    assert_eq!(places.running(), 0);
}

#[test]
fn a_full_provider_has_no_place_until_one_leaves() {
    let places = Places::new(limits(2, 0));
    let first = places.try_enter().expect("free");
    let _second = places.try_enter().expect("free");
    assert!(places.try_enter().is_none());
    drop(first);
    assert!(places.try_enter().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_place_goes_to_whoever_waited_longest() {
    let places = Places::new(limits(1, 10));
    let mut inside = places.try_enter().expect("free");
    let mut line = Vec::new();
    for _ in 0..5 {
        line.push(waiter(&places, after(60_000)).await);
    }
    assert_eq!(places.waiting(), 5);
    while !line.is_empty() {
        drop(inside);
        settle().await;
        assert!(line[0].is_finished());
        assert!(line.iter().skip(1).all(|later| !later.is_finished()));
        inside = line.remove(0).await.expect("no panic").expect("its turn");
        assert_eq!(places.running(), 1);
    }
    drop(inside);
    assert_eq!((places.running(), places.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let places = Places::new(limits(1, 10));
    let inside = places.try_enter().expect("free");
    let first = waiter(&places, after(1000)).await;
    drop(inside);
    // The waiting task has not run yet: the place is its own already.
    assert!(places.try_enter().is_none());
    let place = first.await.expect("no panic").expect("a place");
    drop(place);
    assert!(places.try_enter().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_at_once() {
    let places = Places::new(limits(1, 1));
    let _inside = places.try_enter().expect("free");
    let _waiting = waiter(&places, after(1000)).await;
    let began = Instant::now();
    assert_eq!(places.enter(after(1000)).await.err(), Some(NoPlace::QueueFull));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn without_a_line_a_full_provider_refuses_at_once() {
    let places = Places::new(limits(1, 0));
    let inside = places.enter(after(0)).await.expect("free");
    assert_eq!(places.enter(after(1000)).await.err(), Some(NoPlace::QueueFull));
    drop(inside);
    assert!(places.enter(after(0)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_time_is_over() {
    let places = Places::new(limits(1, 5));
    let _inside = places.try_enter().expect("free");
    let began = Instant::now();
    assert_eq!(places.enter(after(250)).await.err(), Some(NoPlace::Overtime));
    assert_eq!(began.elapsed(), Duration::from_millis(250));
    assert_eq!(places.enter(after(0)).await.err(), Some(NoPlace::Overtime));
    assert_eq!((places.running(), places.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_dropped_leaves_the_line() {
    let places = Places::new(limits(1, 5));
    let inside = places.try_enter().expect("free");
    let gone = waiter(&places, after(1000)).await;
    let next = waiter(&places, after(1000)).await;
    gone.abort();
    settle().await;
    assert_eq!(places.waiting(), 1);
    drop(inside);
    assert!(next.await.expect("no panic").is_ok());
    assert_eq!(places.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_handed_to_one_who_is_gone_goes_to_the_next() {
    let places = Places::new(limits(1, 5));
    let inside = places.try_enter().expect("free");
    let mut gone = Box::pin(places.enter(after(1000)));
    assert!(gone.as_mut().now_or_never().is_none());
    let next = waiter(&places, after(1000)).await;
    drop(inside);
    assert_eq!((places.running(), places.waiting()), (1, 1));
    drop(gone);
    assert_eq!((places.running(), places.waiting()), (1, 0));
    let _place = next.await.expect("no panic").expect("the place of the other");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_at_the_last_moment_is_taken() {
    let places = Places::new(limits(1, 5));
    let inside = places.try_enter().expect("free");
    let mut late = Box::pin(places.enter(after(100)));
    assert!(late.as_mut().now_or_never().is_none());
    drop(inside);
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(late.await.is_ok());
    assert_eq!(places.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn more_places_let_those_who_wait_in_at_once() {
    let places = Places::new(limits(1, 5));
    let _inside = places.try_enter().expect("free");
    let mut line = Vec::new();
    for _ in 0..4 {
        line.push(waiter(&places, after(60_000)).await);
    }
    places.set(limits(3, 5));
    assert_eq!((places.running(), places.waiting()), (3, 2));
    settle().await;
    let done: Vec<_> = line.iter().map(JoinHandle::is_finished).collect();
    assert_eq!(done, [true, true, false, false]);
    places.set(UNLIMITED_PLACES);
    // Nobody kept what the tasks returned but their handles.
    assert_eq!((places.running(), places.waiting()), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn fewer_places_only_stop_new_entries() {
    let places = Places::new(UNLIMITED_PLACES);
    let mut inside: Vec<_> = (0..4).map(|_| places.try_enter().expect("no limit")).collect();
    places.set(limits(2, 1));
    assert_eq!(places.running(), 4);
    assert!(places.try_enter().is_none());
    let waiting = waiter(&places, after(60_000)).await;
    inside.truncate(2);
    settle().await;
    assert!(!waiting.is_finished());
    inside.truncate(1);
    assert!(waiting.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_line_keeps_those_who_stand_in_it() {
    let places = Places::new(limits(1, 2));
    let inside = places.try_enter().expect("free");
    let first = waiter(&places, after(60_000)).await;
    let second = waiter(&places, after(60_000)).await;
    places.set(limits(1, 0));
    assert_eq!(places.enter(after(1000)).await.err(), Some(NoPlace::QueueFull));
    drop(inside);
    drop(first.await.expect("no panic").expect("a place"));
    assert!(second.await.expect("no panic").is_ok());
}

#[test]
fn debug_shows_the_numbers() {
    let places = Places::new(limits(1, 0));
    let place = places.try_enter().expect("free");
    assert_eq!(format!("{places:?}"), "Places { running: 1, waiting: 0, .. }");
    assert!(format!("{place:?}").starts_with("Place {"));
}

/// Many threads enter, leave, give up and are dropped while the limit changes: it is never exceeded, and in the end nobody
/// is left waiting.
#[test]
fn the_limit_holds_and_no_wake_up_is_lost_under_random_cancellations() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let places = Places::new(limits(3, 10_000));
        let tasks = (0..400u64).map(|seed| {
            let places = Arc::clone(&places);
            spawn("visitor", async move {
                let mut dice = Dice(seed * 7919 + 1);
                for _ in 0..20 {
                    let patience = Duration::from_micros(dice.below(3000));
                    let entered = match dice.below(3) {
                        0 => tokio::time::timeout(patience, places.enter(after(60_000)))
                            .await
                            .ok(),
                        1 => Some(places.enter(Instant::now() + patience).await),
                        _ => {
                            let place = places.enter(after(60_000)).await;
                            assert!(place.is_ok(), "patient ones get in");
                            Some(place)
                        }
                    };
                    if let Some(Ok(_place)) = entered {
                        assert!(places.running() <= 3);
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
        for ended in join_all(tasks.collect::<Vec<_>>()).await {
            ended.expect("no panic");
        }
        assert_eq!((places.running(), places.waiting()), (0, 0));
    });
}

#[test]
fn nobody_is_stranded_when_the_limit_comes_and_goes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let places = Places::new(limits(1, 10_000));
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let places = Arc::clone(&places);
                spawn("visitor", async move {
                    for _ in 0..50 {
                        let place = places.enter(after(60_000)).await.expect("in the end");
                        tokio::task::yield_now().await;
                        drop(place);
                    }
                })
            })
            .collect();
        let mut dice = Dice(42);
        while tasks.iter().any(|task| !task.is_finished()) {
            let most = Some(1 + dice.below(4) as u32).filter(|most| *most < 4);
            places.set(PlaceLimits { most, queue: 10_000 });
            tokio::task::yield_now().await;
        }
        for ended in join_all(tasks).await {
            ended.expect("no panic");
        }
        assert_eq!((places.running(), places.waiting()), (0, 0));
    });
}
