use std::future::Future;
use std::pin::Pin;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::spawn::spawn;

const HOUR: Duration = Duration::from_hours(1);

fn rpm(count: u64) -> PaceLimits {
    PaceLimits {
        rpm: Some(count),
        tpm: None,
    }
}

fn tpm(count: u64) -> PaceLimits {
    PaceLimits {
        rpm: None,
        tpm: Some(count),
    }
}

fn token(number: u8) -> TokenId {
    TokenId::from_bytes([number; 16])
}

fn in_an_hour() -> Instant {
    Instant::now() + HOUR
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A request that goes at once.
fn go(pace: &Arc<Pace>, tokens: u64) -> Paced {
    pace.enter(token(0), tokens, Instant::now())
        .now_or_never()
        .expect("at once")
        .expect("within the limits")
}

/// A request that stands in the queue when this returns.
fn queued(
    pace: &Arc<Pace>,
    who: u8,
    tokens: u64,
) -> Pin<Box<impl Future<Output = Result<Paced, Overtime>> + use<'_>>> {
    let mut entering = Box::pin(pace.enter(token(who), tokens, in_an_hour()));
    assert!(entering.as_mut().now_or_never().is_none(), "it has to wait");
    entering
}

/// A task in the queue that writes down its name and when it was let through.
fn noted(
    pace: &Arc<Pace>,
    log: &Arc<Mutex<Vec<(&'static str, u64)>>>,
    who: u8,
    tokens: u64,
    name: &'static str,
) -> JoinHandle<()> {
    let (pace, log, began) = (Arc::clone(pace), Arc::clone(log), Instant::now());
    spawn("noted", async move {
        if pace.enter(token(who), tokens, in_an_hour()).await.is_ok() {
            log.lock().push((name, began.elapsed().as_secs()));
        }
    })
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn names(log: &Arc<Mutex<Vec<(&'static str, u64)>>>) -> Vec<&'static str> {
    log.lock().iter().map(|(name, _)| *name).collect()
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

/// Panics if in any time more passed than a bucket of `limit` a minute lets through.
fn assert_within(limit: u64, mut passed: Vec<(Duration, u64)>) {
    passed.sort_unstable();
    for first in 0..passed.len() {
        let mut sum = 0;
        for (at, count) in &passed[first..] {
            sum += count;
            let millis = at.saturating_sub(passed[first].0).as_nanos();
            let most = u128::from(limit) * 60_000_000_000 + u128::from(limit) * millis;
            assert!(
                u128::from(sum) * 60_000_000_000 <= most,
                "{sum} in {:?}",
                at.saturating_sub(passed[first].0)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_limits_everything_goes_at_once() {
    let pace = Pace::new(PaceLimits { rpm: None, tpm: None });
    for _ in 0..1000 {
        assert_eq!(pace.wait(u64::MAX), None);
        drop(go(&pace, u64::MAX));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_bucket_goes_at_once_and_then_evenly() {
    let pace = Pace::new(rpm(6));
    for _ in 0..6 {
        assert_eq!(pace.wait(1), None);
        drop(go(&pace, 1));
    }
    assert_eq!(pace.wait(1), Some(seconds(10)));
    let began = Instant::now();
    for nth in 1..=4 {
        drop(pace.enter(token(1), 1, in_an_hour()).await.expect("its turn"));
        assert_eq!(began.elapsed(), seconds(10 * nth));
    }
    tokio::time::advance(HOUR).await;
    for _ in 0..6 {
        drop(go(&pace, 1));
    }
    assert!(pace.wait(1).is_some(), "a rest fills the bucket once");
}

#[tokio::test(start_paused = true)]
async fn both_limits_hold() {
    let pace = Pace::new(PaceLimits {
        rpm: Some(60),
        tpm: Some(600),
    });
    drop(go(&pace, 600));
    assert_eq!(pace.wait(50), Some(seconds(5)));
    tokio::time::advance(seconds(60)).await;
    for _ in 0..60 {
        drop(go(&pace, 1));
    }
    assert_eq!(pace.wait(1), Some(seconds(1)));
}

#[tokio::test(start_paused = true)]
async fn the_wait_counts_those_who_wait_already() {
    let pace = Pace::new(tpm(600));
    drop(go(&pace, 600));
    let _first = queued(&pace, 1, 100);
    assert_eq!(pace.wait(50), Some(seconds(15)));
    let second = queued(&pace, 1, 200);
    assert_eq!(pace.wait(50), Some(seconds(35)));
    assert_eq!(pace.waiting(), 2);
    drop(second);
    assert_eq!(pace.wait(50), Some(seconds(15)));
    assert_eq!(pace.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_take_turns_and_each_is_served_in_order() {
    let pace = Pace::new(rpm(60));
    for _ in 0..60 {
        drop(go(&pace, 1));
    }
    let log = Arc::default();
    let mut tasks = Vec::new();
    for (who, name) in [
        (1, "a1"),
        (1, "a2"),
        (1, "a3"),
        (1, "a4"),
        (2, "b1"),
        (3, "c1"),
        (3, "c2"),
    ] {
        tasks.push(noted(&pace, &log, who, 1, name));
    }
    settle().await;
    assert_eq!(pace.waiting(), 7);
    join_all(tasks).await;
    assert_eq!(names(&log), ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]);
    assert_eq!(
        log.lock().iter().map(|(_, at)| *at).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7]
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_with_a_hundred_waiting_does_not_starve_one_with_one() {
    let pace = Pace::new(rpm(60));
    for _ in 0..60 {
        drop(go(&pace, 1));
    }
    let _many: Vec<_> = (0..100)
        .map(|_| {
            let pace = Arc::clone(&pace);
            spawn("many", async move { pace.enter(token(1), 1, in_an_hour()).await })
        })
        .collect();
    settle().await;
    assert_eq!(pace.waiting(), 100);
    let began = Instant::now();
    drop(pace.enter(token(2), 1, in_an_hour()).await.expect("its turn"));
    assert_eq!(began.elapsed(), seconds(2));
}

#[tokio::test(start_paused = true)]
async fn small_requests_do_not_overtake_a_large_one_whose_turn_it_is() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 60));
    let log = Arc::default();
    let large = noted(&pace, &log, 1, 50, "large");
    settle().await;
    let mut tasks = vec![large];
    for _ in 0..5 {
        tasks.push(noted(&pace, &log, 2, 1, "small"));
    }
    tokio::time::advance(seconds(49)).await;
    settle().await;
    assert!(log.lock().is_empty());
    join_all(tasks).await;
    assert_eq!(log.lock()[0], ("large", 50));
    assert_eq!(log.lock()[5], ("small", 55));
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_a_minute_goes_from_a_full_bucket_and_leaves_a_debt() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 30));
    assert_eq!(pace.wait(180), Some(seconds(30)));
    let began = Instant::now();
    drop(pace.enter(token(1), 180, in_an_hour()).await.expect("its turn"));
    assert_eq!(began.elapsed(), seconds(30));
    assert_eq!(pace.wait(1), Some(seconds(121)));
    drop(
        pace.enter(token(1), u64::MAX, in_an_hour())
            .await
            .expect("its turn"),
    );
    assert_eq!(began.elapsed(), seconds(30 + 180));
    assert!(pace.wait(1).expect("a debt") > HOUR);
    assert_eq!(pace.enter(token(1), 1, in_an_hour()).await.err(), Some(Overtime));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_time_is_over() {
    let pace = Pace::new(rpm(1));
    drop(go(&pace, 1));
    let began = Instant::now();
    let until = began + seconds(5);
    let (first, second) = tokio::join!(pace.enter(token(1), 1, until), pace.enter(token(2), 1, until));
    assert_eq!((first.err(), second.err()), (Some(Overtime), Some(Overtime)));
    assert_eq!(began.elapsed(), seconds(5));
    assert_eq!(pace.waiting(), 0);
    assert_eq!(pace.enter(token(1), 1, began).await.err(), Some(Overtime));
    assert_eq!(began.elapsed(), seconds(5));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_with_the_end_of_the_time_is_taken() {
    let pace = Pace::new(rpm(1));
    drop(go(&pace, 1));
    assert!(
        pace.enter(token(1), 1, Instant::now() + seconds(60))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn the_queue_has_an_end() {
    let pace = Pace::new(rpm(1));
    drop(go(&pace, 1));
    let mut queue: Vec<_> = (0..MOST_WAITING)
        .map(|nth| queued(&pace, (nth % 7) as u8, 1))
        .collect();
    let began = Instant::now();
    assert_eq!(pace.enter(token(9), 1, in_an_hour()).await.err(), Some(Overtime));
    assert_eq!(began.elapsed(), Duration::ZERO);
    queue.pop();
    let _last = queued(&pace, 9, 1);
    assert_eq!(pace.waiting(), MOST_WAITING);
}

#[tokio::test(start_paused = true)]
async fn the_duty_goes_on_when_the_first_is_dropped() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 60));
    let first = queued(&pace, 1, 60);
    let log = Arc::default();
    let next = noted(&pace, &log, 1, 10, "next");
    let other = noted(&pace, &log, 2, 10, "other");
    settle().await;
    tokio::time::advance(seconds(5)).await;
    drop(first);
    let _ = tokio::join!(next, other);
    assert_eq!(*log.lock(), [("next", 10), ("other", 20)]);
    assert_eq!(pace.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_told_and_is_dropped_before_it_looks_tells_the_next() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 60));
    let first = queued(&pace, 1, 60);
    let told = queued(&pace, 2, 60);
    let log = Arc::default();
    let last = noted(&pace, &log, 3, 1, "last");
    settle().await;
    drop(first);
    drop(told);
    last.await.expect("no panic");
    assert_eq!(*log.lock(), [("last", 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_whose_time_is_over_tells_the_next() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 60));
    let until = Instant::now() + seconds(21);
    let (first, next) = tokio::join!(
        pace.enter(token(1), 60, until),
        pace.enter(token(2), 20, until + seconds(1))
    );
    assert!(first.is_err());
    assert!(next.is_ok(), "its tokens were there in time");
}

#[tokio::test(start_paused = true)]
async fn larger_limits_let_those_who_wait_in_at_once() {
    let pace = Pace::new(rpm(2));
    drop((go(&pace, 1), go(&pace, 1)));
    let began = Instant::now();
    let log = Arc::default();
    let tasks: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| noted(&pace, &log, 1, 1, name))
        .into_iter()
        .collect();
    settle().await;
    pace.set(rpm(5));
    settle().await;
    assert_eq!(names(&log), ["a", "b", "c"]);
    assert_eq!(pace.wait(1), Some(seconds(24)));
    pace.set(PaceLimits { rpm: None, tpm: None });
    join_all(tasks).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(names(&log), ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn smaller_limits_make_those_who_wait_wait_longer() {
    let pace = Pace::new(rpm(60));
    for _ in 0..60 {
        drop(go(&pace, 1));
    }
    let log = Arc::default();
    let task = noted(&pace, &log, 1, 1, "late");
    settle().await;
    pace.set(rpm(6));
    task.await.expect("no panic");
    assert_eq!(*log.lock(), [("late", 10)]);
    tokio::time::advance(HOUR).await;
    for _ in 0..6 {
        drop(go(&pace, 1));
    }
    assert_eq!(pace.wait(1), Some(seconds(10)));
}

#[tokio::test(start_paused = true)]
async fn a_limit_where_none_was_begins_full_and_gets_nothing_back_from_before() {
    let pace = Pace::new(PaceLimits { rpm: None, tpm: None });
    let before = go(&pace, 50);
    pace.set(tpm(60));
    let after = go(&pace, 60);
    before.give_back();
    assert_eq!(pace.wait(1), Some(seconds(1)));
    after.give_back();
    assert_eq!(pace.wait(60), None);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_counts_as_one() {
    let pace = Pace::new(PaceLimits {
        rpm: Some(0),
        tpm: Some(0),
    });
    drop(go(&pace, 1));
    assert_eq!(pace.wait(1), Some(seconds(60)));
}

#[tokio::test(start_paused = true)]
async fn a_correction_gives_back_what_the_estimate_was_too_high() {
    let pace = Pace::new(tpm(60));
    let mut paced = go(&pace, 60);
    let log = Arc::default();
    let waiting = noted(&pace, &log, 1, 40, "next");
    settle().await;
    paced.correct(20);
    waiting.await.expect("no panic");
    assert_eq!(*log.lock(), [("next", 0)]);
    assert_eq!(paced.tokens(), 20);
    paced.correct(20);
    assert_eq!(pace.wait(1), Some(seconds(1)));
}

#[tokio::test(start_paused = true)]
async fn a_correction_takes_what_the_estimate_was_too_low_even_into_debt() {
    let pace = Pace::new(tpm(60));
    let mut paced = go(&pace, 30);
    let log = Arc::default();
    let waiting = noted(&pace, &log, 1, 40, "next");
    settle().await;
    paced.correct(90);
    waiting.await.expect("no panic");
    assert_eq!(*log.lock(), [("next", 70)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_without_a_word_leaves_the_estimate_charged() {
    let pace = Pace::new(tpm(60));
    drop(go(&pace, 60));
    assert_eq!(pace.wait(30), Some(seconds(30)));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_gives_back_the_request_too() {
    let pace = Pace::new(PaceLimits {
        rpm: Some(1),
        tpm: Some(60),
    });
    let unsent = go(&pace, 60);
    let log = Arc::default();
    let waiting = noted(&pace, &log, 1, 60, "next");
    settle().await;
    unsent.give_back();
    waiting.await.expect("no panic");
    assert_eq!(*log.lock(), [("next", 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_was_full_since_gets_nothing_back() {
    let pace = Pace::new(tpm(60));
    let mut early = go(&pace, 60);
    tokio::time::advance(seconds(60)).await;
    let _late = go(&pace, 60);
    early.correct(0);
    assert_eq!(pace.wait(1), Some(seconds(1)));
}

#[tokio::test(start_paused = true)]
async fn an_estimate_of_nothing_can_be_corrected_up_and_down() {
    let pace = Pace::new(tpm(60));
    let mut paced = go(&pace, 0);
    paced.correct(60);
    assert_eq!(pace.wait(1), Some(seconds(1)));
    paced.correct(30);
    assert_eq!(pace.wait(30), None);
}

#[tokio::test(start_paused = true)]
async fn the_limits_hold_for_many_tasks_at_any_time() {
    const RPM: u64 = 120;
    const TPM: u64 = 7001;
    let pace = Pace::new(PaceLimits {
        rpm: Some(RPM),
        tpm: Some(TPM),
    });
    let began = Instant::now();
    let passed: Arc<Mutex<Vec<(Duration, u64)>>> = Arc::default();
    let tasks: Vec<_> = (0..800u64)
        .map(|nth| {
            let (pace, passed) = (Arc::clone(&pace), Arc::clone(&passed));
            spawn("request", async move {
                let mut dice = Dice(nth * 6151 + 3);
                tokio::time::sleep(Duration::from_millis(dice.below(200_000))).await;
                let tokens = dice.below(150);
                let paced = pace.enter(token((nth % 5) as u8), tokens, in_an_hour()).await;
                drop(paced.expect("its turn"));
                passed.lock().push((began.elapsed(), tokens));
            })
        })
        .collect();
    for ended in join_all(tasks).await {
        ended.expect("no panic");
    }
    let passed = std::mem::take(&mut *passed.lock());
    assert_eq!(passed.len(), 800);
    let total: u64 = passed.iter().map(|(_, tokens)| tokens).sum();
    let least = Duration::from_secs_f64((total - TPM) as f64 * 60.0 / TPM as f64);
    let last = passed.iter().map(|(at, _)| *at).max().expect("some");
    assert!(
        last < least + seconds(240),
        "the pace is used: {last:?} for {least:?}"
    );
    assert_within(RPM, passed.iter().map(|(at, _)| (*at, 1)).collect());
    assert_within(TPM, passed);
}

#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost_under_random_cancellations() {
    for seed in 1..40u64 {
        let pace = Pace::new(PaceLimits {
            rpm: Some(600),
            tpm: Some(6000),
        });
        let tasks: Vec<_> = (0..150u64)
            .map(|nth| {
                let pace = Arc::clone(&pace);
                spawn("request", async move {
                    let mut dice = Dice(seed * 104_729 + nth * 31 + 1);
                    tokio::time::sleep(Duration::from_millis(dice.below(2000))).await;
                    let (who, tokens) = (token(dice.below(4) as u8), dice.below(300));
                    let patience = Duration::from_millis(dice.below(20_000));
                    let entered = match dice.below(3) {
                        0 => tokio::time::timeout(patience, pace.enter(who, tokens, in_an_hour()))
                            .await
                            .ok(),
                        1 => Some(pace.enter(who, tokens, Instant::now() + patience).await),
                        _ => {
                            let paced = pace.enter(who, tokens, in_an_hour()).await;
                            assert!(paced.is_ok(), "patient ones get through");
                            Some(paced)
                        }
                    };
                    let Some(Ok(mut paced)) = entered else { return };
                    match dice.below(4) {
                        0 => paced.give_back(),
                        1 => paced.correct(dice.below(400)),
                        2 => pace.set(PaceLimits {
                            rpm: Some(300 + dice.below(600)),
                            tpm: Some(3000 + dice.below(6000)),
                        }),
                        _ => {}
                    }
                })
            })
            .collect();
        for ended in join_all(tasks).await {
            ended.expect("no panic");
        }
        assert_eq!(pace.waiting(), 0);
        let state = pace.state.lock();
        assert_eq!(state.turns.tokens(), 0);
    }
}

/// On several threads, by the real clock: so fast that it takes no time.
#[test]
fn nobody_is_stranded_on_several_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let pace = Pace::new(rpm(60_000));
        for _ in 0..60_000 {
            drop(go(&pace, 1));
        }
        let tasks: Vec<_> = (0..300u64)
            .map(|nth| {
                let pace = Arc::clone(&pace);
                spawn("request", async move {
                    let mut dice = Dice(nth * 193 + 7);
                    for _ in 0..5 {
                        let entering = pace.enter(token((nth % 6) as u8), 1, in_an_hour());
                        if dice.below(2) == 0 {
                            let patience = Duration::from_micros(dice.below(100_000));
                            let _ = tokio::time::timeout(patience, entering).await;
                        } else {
                            drop(entering.await.expect("its turn"));
                        }
                    }
                })
            })
            .collect();
        for ended in join_all(tasks).await {
            ended.expect("no panic");
        }
        assert_eq!(pace.waiting(), 0);
    });
}
