//! Shared rates against a private Redis that comes and goes.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::domain::denial::LimitScope;
use crate::domain::{DenialCode, SystemClock};
use crate::limit::tests::{limiter, rpm, subject};
use crate::limit::{Claim, Fallback, Limiter};

/// A Redis of our own, without persistence; killed when dropped.
struct Server {
    port: u16,
    process: Option<Child>,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self { port, process: None };
        server.start_again();
        server
    }

    fn start_again(&mut self) {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`redis-server` must be installed for this test");
        self.process = Some(process);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            std::thread::yield_now();
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(process), signal).unwrap();
    }

    fn url(&self) -> Secret {
        Secret::new(format!("redis://127.0.0.1:{}", self.port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Instance {
    rates: Arc<RedisRates>,
    limiter: Limiter,
}

async fn instance(server: &Server, change: impl FnOnce(&mut LimitSettings)) -> Instance {
    let mut settings = LimitSettings {
        redis_timeout: Duration::from_millis(500),
        ..LimitSettings::default()
    };
    change(&mut settings);
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let clock = SystemClock::shared();
    let rates =
        RedisRates::connect(&server.url(), &Handle::current(), clock.clone(), settings.clone()).unwrap();
    let limiter = limiter(settings, clock, Some(rates.clone()));
    assert!(
        rates.joined_within(Duration::from_secs(10)).await,
        "redis answers"
    );
    Instance { rates, limiter }
}

/// Waits for a condition, within a bound that fails the test.
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("the condition never came true");
}

/// How many of the requests of token 1 pass that come at once.
async fn passed(limiter: &Limiter, requests: usize, n: u32) -> usize {
    passed_of(1, limiter, requests, n).await
}

async fn passed_of(token: u8, limiter: &Limiter, requests: usize, n: u32) -> usize {
    let mut subject = subject();
    subject.token_id = TokenId::from_bytes([token; 16]);
    subject.token_limits = rpm(n);
    let asking = (0..requests).map(|_| limiter.reserve(subject, Claim::nothing()));
    futures_util::future::join_all(asking)
        .await
        .iter()
        .filter(|answer| answer.is_ok())
        .count()
}

#[tokio::test]
async fn two_instances_share_one_rate() {
    let server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    let clock = SystemClock::shared();
    let (first, second) = tokio::join!(passed(&one.limiter, 100, 60), passed(&two.limiter, 100, 60));
    let refill = clock.monotonic().as_secs() as usize + 1;
    let total = first + second;
    assert!((60..=60 + refill).contains(&total), "{first} + {second}");
    assert!(one.rates.is_answering() && two.rates.is_answering());
}

#[tokio::test]
async fn the_script_says_what_the_local_rule_says() {
    let server = Server::start();
    let instance = instance(&server, |settings| settings.per_ip = rpm(2)).await;
    let mut both = subject();
    both.token_limits = rpm(10);
    both.project_limits = rpm(3);
    for left in [2, 1, 0] {
        let standing = instance
            .limiter
            .reserve(both, Claim::nothing())
            .await
            .unwrap()
            .standings()
            .requests
            .unwrap();
        assert_eq!((standing.limit, standing.remaining), (3, left));
    }
    let refused = instance
        .limiter
        .reserve(both, Claim::nothing())
        .await
        .unwrap_err();
    assert_eq!(refused.denial.scope, Some(LimitScope::Project));
    assert!(
        refused
            .denial
            .retry_after_seconds()
            .is_some_and(|wait| (18..=20).contains(&wait))
    );
    both.project_limits = crate::domain::Limits::default();
    let standing = instance
        .limiter
        .reserve(both, Claim::nothing())
        .await
        .unwrap()
        .standings()
        .requests
        .unwrap();
    assert_eq!(
        (standing.limit, standing.remaining),
        (10, 6),
        "the refused one cost the token nothing"
    );

    let client = "192.0.2.1".parse().unwrap();
    instance.limiter.admit_address(client).await.unwrap();
    instance.limiter.admit_address(client).await.unwrap();
    let denial = instance.limiter.admit_address(client).await.unwrap_err();
    assert_eq!(denial.scope, Some(LimitScope::Ip));
}

#[tokio::test]
async fn a_place_that_concurrency_refused_goes_back_to_redis() {
    let server = Server::start();
    let instance = instance(&server, |_| ()).await;
    let mut one_at_once = subject();
    one_at_once.token_limits = rpm(10);
    one_at_once.token_limits.concurrency = NonZeroU32::new(1);
    let held = instance
        .limiter
        .reserve(one_at_once, Claim::nothing())
        .await
        .unwrap();
    for _ in 0..20 {
        assert!(
            instance
                .limiter
                .reserve(one_at_once, Claim::nothing())
                .await
                .is_err()
        );
    }
    drop(held);
    let standing = instance
        .limiter
        .reserve(one_at_once, Claim::nothing())
        .await
        .unwrap()
        .standings()
        .requests
        .unwrap();
    assert_eq!(standing.remaining, 8);
}

#[tokio::test]
async fn when_redis_goes_each_instance_gives_its_share_and_when_it_comes_back_they_share_again() {
    let mut server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    both_know(&one, &two).await;
    server.stop();
    let (first, second) = (
        passed(&one.limiter, 100, 60).await,
        passed(&two.limiter, 100, 60).await,
    );
    assert!(
        (30..=33).contains(&first) && (30..=33).contains(&second),
        "{first}, {second}"
    );
    assert!(!one.rates.is_answering());

    server.start_again();
    both_ask_again(&one, &two).await;
    let (first, second) = tokio::join!(
        passed_of(3, &one.limiter, 100, 60),
        passed_of(3, &two.limiter, 100, 60)
    );
    assert!(
        (60..=62).contains(&(first + second)),
        "{first} + {second}: the new Redis knows no scripts"
    );
}

/// Waits until each was told of the other.
async fn both_know(one: &Instance, two: &Instance) {
    until(|| one.rates.instances() == 2 && two.rates.instances() == 2).await;
}

/// Sends requests of a token of their own until Redis is used again.
async fn both_ask_again(one: &Instance, two: &Instance) {
    let back = async {
        loop {
            passed_of(9, &one.limiter, 1, 60_000).await;
            passed_of(9, &two.limiter, 1, 60_000).await;
            if one.rates.is_answering() && two.rates.is_answering() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back)
        .await
        .expect("redis is used again");
}

#[tokio::test]
async fn instances_learn_of_each_other_within_two_beats() {
    let server = Server::start();
    let one = instance(&server, |_| ()).await;
    let clock = SystemClock::shared();
    let two = instance(&server, |_| ()).await;
    assert_eq!(
        two.rates.instances(),
        2,
        "whoever comes knows those who are there"
    );
    both_know(&one, &two).await;
    assert!(clock.monotonic() < 3 * BEAT_EVERY, "{:?}", clock.monotonic());
}

#[tokio::test]
async fn a_redis_that_hangs_in_the_middle_gives_no_place_twice() {
    for hanging in [LATE / 4, LATE + LATE / 2] {
        let server = Server::start();
        let short = |settings: &mut LimitSettings| settings.redis_timeout = Duration::from_millis(50);
        let (one, two) = (instance(&server, short).await, instance(&server, short).await);
        both_know(&one, &two).await;
        let clock = SystemClock::shared();
        server.signal(rustix::process::Signal::STOP);
        let (first, second) = tokio::join!(passed(&one.limiter, 100, 60), passed(&two.limiter, 100, 60));
        assert!(
            (30..=33).contains(&first) && (30..=33).contains(&second),
            "{first}, {second}"
        );
        tokio::time::sleep(hanging).await;
        server.signal(rustix::process::Signal::CONT);
        both_ask_again(&one, &two).await;
        // what was late has arrived by now, or never does
        tokio::time::sleep(LATE).await;
        let (third, fourth) = tokio::join!(passed(&one.limiter, 100, 60), passed(&two.limiter, 100, 60));
        let refilled = clock.monotonic().as_secs() as usize + 1;
        let total = first + second + third + fourth;
        assert!(
            (60..=60 + refilled).contains(&total),
            "{first} + {second} + {third} + {fourth} with {refilled} refilled, {hanging:?}"
        );
    }
}

#[tokio::test]
async fn a_redis_that_hangs_for_a_moment_in_a_burst_gives_no_place_twice() {
    let server = Server::start();
    let short = |settings: &mut LimitSettings| settings.redis_timeout = Duration::from_millis(50);
    let (one, two) = (instance(&server, short).await, instance(&server, short).await);
    both_know(&one, &two).await;
    let clock = SystemClock::shared();
    let mut total = 0;
    for _ in 0..5 {
        let (first, second) = tokio::join!(passed(&one.limiter, 6, 60), passed(&two.limiter, 6, 60));
        total += first + second;
        server.signal(rustix::process::Signal::STOP);
        let (first, second) = tokio::join!(passed(&one.limiter, 4, 60), passed(&two.limiter, 4, 60));
        total += first + second;
        server.signal(rustix::process::Signal::CONT);
        both_ask_again(&one, &two).await;
    }
    let (first, second) = tokio::join!(passed(&one.limiter, 100, 60), passed(&two.limiter, 100, 60));
    total += first + second;
    let refilled = clock.monotonic().as_secs() as usize + 1;
    assert!(total <= 60 + refilled, "{total} passed, with {refilled} refilled");
    assert!(total >= 45, "{total} passed, places were lost");
}

#[tokio::test]
async fn what_was_taken_in_redis_counts_when_it_goes() {
    let mut server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    both_know(&one, &two).await;
    assert_eq!(passed(&one.limiter, 40, 60).await, 40);
    assert_eq!(passed(&two.limiter, 2, 60).await, 2);
    server.stop();
    let (first, second) = (
        passed(&one.limiter, 100, 60).await,
        passed(&two.limiter, 100, 60).await,
    );
    assert!((9..=12).contains(&first), "{first}: half of the 20 that are left");
    assert!(
        (8..=12).contains(&second),
        "{second}: half of the 18 that are left"
    );
}

#[tokio::test]
async fn what_was_given_without_redis_is_charged_when_it_is_back() {
    let mut server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    both_know(&one, &two).await;
    server.stop();
    let alone = passed(&one.limiter, 100, 60).await;
    assert!((30..=33).contains(&alone), "{alone}");
    server.start_again();
    both_ask_again(&one, &two).await;
    assert_eq!(passed(&one.limiter, 1, 60).await, 1, "this call tells Redis");
    let rest = passed(&two.limiter, 100, 60).await;
    assert!(
        (60 - 1 - alone..40).contains(&rest),
        "{alone} + 1 + {rest}: the new Redis knows what the old one was not told"
    );
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_timeout_and_not_one_a_request() {
    let server = Server::start();
    let instance = instance(&server, |settings| {
        settings.redis_timeout = Duration::from_millis(50);
    })
    .await;
    server.signal(rustix::process::Signal::STOP);
    let clock = SystemClock::shared();
    assert_eq!(passed(&instance.limiter, 1, 60).await, 1);
    let first = clock.monotonic();
    for _ in 0..50 {
        assert_eq!(passed(&instance.limiter, 1, 600).await, 1);
    }
    let rest = clock.monotonic().saturating_sub(first);
    server.signal(rustix::process::Signal::CONT);
    assert!(first >= Duration::from_millis(45), "{first:?}");
    assert!(rest < Duration::from_secs(2), "{rest:?}");
}

#[tokio::test]
async fn with_fallback_refuse_limited_requests_get_429_and_others_pass() {
    let mut server = Server::start();
    let instance = instance(&server, |settings| settings.fallback = Fallback::Refuse).await;
    server.stop();
    let mut limited = subject();
    limited.token_limits = rpm(60);
    let denial = instance
        .limiter
        .reserve(limited, Claim::nothing())
        .await
        .unwrap_err()
        .denial;
    assert_eq!(
        (denial.code, denial.retry_after_seconds()),
        (DenialCode::RateLimitExceeded, Some(1))
    );
    assert!(
        instance
            .limiter
            .reserve(subject(), Claim::nothing())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn without_a_redis_at_the_start_the_fallback_holds() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = Arc::new(ArcSwap::from_pointee(LimitSettings::default()));
    let clock = SystemClock::shared();
    let url = Secret::new(format!("redis://127.0.0.1:{port}"));
    let rates = RedisRates::connect(&url, &Handle::current(), clock.clone(), settings.clone()).unwrap();
    let limiter = limiter(settings, clock.clone(), Some(rates));
    assert_eq!(passed(&limiter, 10, 5).await, 5);
    assert!(clock.monotonic() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn commands_may_be_sent_from_any_runtime() {
    let server = Server::start();
    let instance = instance(&server, |_| ()).await;
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                total.fetch_add(
                    runtime.block_on(passed(&instance.limiter, 50, 60)),
                    Ordering::Relaxed,
                );
            });
        }
    });
    assert!((60..=63).contains(&total.into_inner()));
    assert!(instance.rates.is_answering());
}

#[tokio::test]
async fn an_instance_that_leaves_is_not_counted_any_more() {
    let server = Server::start();
    let (one, two) = (instance(&server, |_| ()).await, instance(&server, |_| ()).await);
    both_know(&one, &two).await;
    two.rates.leave().await;
    one.rates.beat_once().await.unwrap();
    assert_eq!(one.rates.instances(), 1);
}

fn key_of(bucket: Bucket) -> String {
    let one = crate::limit::charge::one_request(bucket, NonZeroU32::MIN);
    key("llmproxy:", &one)
}

#[test]
fn keys_hold_ids_and_keep_the_buckets_of_one_call_in_one_slot() {
    let project = crate::domain::ProjectId::from_bytes([2; 16]);
    let token = TokenId::from_bytes([1; 16]);
    let of_token = key_of(Bucket::Token { token, project });
    assert_eq!(
        of_token,
        "llmproxy:rate:{02020202-0202-0202-0202-020202020202}:token:01010101-0101-0101-0101-010101010101"
    );
    assert_eq!(
        key_of(Bucket::Project(project)),
        "llmproxy:rate:{02020202-0202-0202-0202-020202020202}"
    );
    let of_address = key_of(Bucket::Address("192.0.2.1".parse().unwrap()));
    assert!(of_address.starts_with("llmproxy:rate:{all}:ip:") && !of_address.contains("192.0.2.1"));
    assert_eq!(of_address.len(), "llmproxy:rate:{all}:ip:".len() + 32);
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_its_password() {
    let settings = Arc::new(ArcSwap::from_pointee(LimitSettings::default()));
    for url in [
        "",
        "not a url",
        "http://user:hunter2@host",
        "redis://user:hunter2@host:99999",
    ] {
        let refused = RedisRates::connect(
            &Secret::new(url),
            &Handle::current(),
            SystemClock::shared(),
            settings.clone(),
        );
        if let Err(error) = refused {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

#[path = "redis_token_tests.rs"]
mod tokens;
