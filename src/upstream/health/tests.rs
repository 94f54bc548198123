use super::*;

const COOLDOWN: CooldownSettings = CooldownSettings {
    failures: 3,
    duration: Duration::from_secs(30),
    max: Duration::from_secs(100),
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn breaker() -> Arc<Breaker> {
    HealthRegistry::default().configured(TargetKey {
        provider: "openai".into(),
        address: "https://api.openai.com".into(),
        model: "gpt-4o".into(),
    })
}

fn fail(breaker: &Arc<Breaker>, at: Duration) {
    breaker.admit(at, &COOLDOWN).unwrap().failed(at, &COOLDOWN);
}

fn trip(breaker: &Arc<Breaker>, at: Duration) {
    for _ in 0..3 {
        fail(breaker, at);
    }
}

#[test]
fn it_opens_after_that_many_failures_in_a_row() {
    let breaker = breaker();
    fail(&breaker, seconds(0));
    fail(&breaker, seconds(0));
    breaker.admit(seconds(0), &COOLDOWN).unwrap().succeeded();
    fail(&breaker, seconds(1));
    fail(&breaker, seconds(1));
    assert!(
        breaker.admit(seconds(1), &COOLDOWN).is_ok(),
        "a success starts the count anew"
    );
    fail(&breaker, seconds(1));
    assert_eq!(breaker.admit(seconds(2), &COOLDOWN).unwrap_err(), seconds(29));
    assert_eq!(breaker.closed_for(seconds(11), &COOLDOWN), Some(seconds(20)));
}

#[test]
fn one_probe_at_a_time_decides() {
    let breaker = breaker();
    trip(&breaker, seconds(0));
    let mut probe = breaker.admit(seconds(30), &COOLDOWN).unwrap();
    assert_eq!(breaker.admit(seconds(31), &COOLDOWN).unwrap_err(), seconds(1));
    probe.succeeded();
    assert!(breaker.admit(seconds(31), &COOLDOWN).is_ok());
    assert_eq!(breaker.snapshot(seconds(31)).state, "closed");
}

#[test]
fn each_failed_probe_doubles_the_pause_up_to_the_longest() {
    let breaker = breaker();
    trip(&breaker, seconds(0));
    let mut now = seconds(0);
    for pause in [30, 60, 100, 100] {
        assert_eq!(breaker.closed_for(now, &COOLDOWN), Some(seconds(pause)));
        now += seconds(pause);
        fail(&breaker, now);
    }
}

#[test]
fn a_probe_without_a_verdict_frees_its_place() {
    let breaker = breaker();
    trip(&breaker, seconds(0));
    drop(breaker.admit(seconds(30), &COOLDOWN).unwrap());
    assert!(breaker.admit(seconds(30), &COOLDOWN).is_ok());
}

#[test]
fn a_probe_that_hangs_does_not_shut_the_target_for_ever() {
    let breaker = breaker();
    trip(&breaker, seconds(0));
    let mut hanging = breaker.admit(seconds(30), &COOLDOWN).unwrap();
    assert!(breaker.admit(seconds(59), &COOLDOWN).is_err());
    let mut second = breaker.admit(seconds(60), &COOLDOWN).unwrap();
    hanging.failed(seconds(61), &COOLDOWN);
    second.succeeded();
    assert_eq!(
        breaker.snapshot(seconds(61)).state,
        "closed",
        "the newer probe decides"
    );
}

#[test]
fn results_of_attempts_from_before_change_nothing() {
    let breaker = breaker();
    let mut early_success = breaker.admit(seconds(0), &COOLDOWN).unwrap();
    let mut early_failure = breaker.admit(seconds(0), &COOLDOWN).unwrap();
    trip(&breaker, seconds(1));
    early_success.succeeded();
    early_failure.failed(seconds(20), &COOLDOWN);
    assert_eq!(breaker.closed_for(seconds(21), &COOLDOWN), Some(seconds(10)));
}

#[test]
fn retry_after_cools_down_for_just_that_time() {
    let breaker = breaker();
    breaker
        .admit(seconds(0), &COOLDOWN)
        .unwrap()
        .cool_down(seconds(0), seconds(7), &COOLDOWN);
    assert_eq!(breaker.closed_for(seconds(2), &COOLDOWN), Some(seconds(5)));
    breaker.admit(seconds(7), &COOLDOWN).unwrap().succeeded();
    assert_eq!(breaker.closed_for(seconds(7), &COOLDOWN), None);
    breaker
        .admit(seconds(8), &COOLDOWN)
        .unwrap()
        .cool_down(seconds(8), Duration::MAX, &COOLDOWN);
    assert_eq!(breaker.closed_for(seconds(8), &COOLDOWN), Some(COOLDOWN.max));
}

#[test]
fn attempts_in_flight_are_counted_until_they_are_dropped() {
    let breaker = breaker();
    let mut first = breaker.admit(seconds(0), &COOLDOWN).unwrap();
    let second = breaker.admit(seconds(0), &COOLDOWN).unwrap();
    first.succeeded();
    assert_eq!(breaker.in_flight(), 2);
    drop(first);
    drop(second);
    assert_eq!(breaker.in_flight(), 0);
}

#[test]
fn a_reload_finds_unchanged_targets_as_they_were() {
    let registry = HealthRegistry::default();
    let key = |model: &str| TargetKey {
        provider: "p".into(),
        address: "http://a".into(),
        model: model.into(),
    };
    let old = registry.configured(key("m"));
    trip(&old, seconds(0));
    let gone = registry.configured(key("gone"));
    drop(gone);
    let new = registry.configured(key("m"));
    assert!(new.closed_for(seconds(1), &COOLDOWN).is_some());
    registry.forget_unused();
    assert_eq!(registry.snapshot(seconds(1)).len(), 1);
}

#[test]
fn breakers_of_models_that_clients_invent_are_bounded() {
    let registry = HealthRegistry::default();
    let (provider, address): (Arc<str>, Arc<str>) = ("p".into(), "http://a".into());
    for n in 0..3 * PASSED_THROUGH {
        registry.passed_through(&provider, &address, &format!("model-{n}"));
    }
    assert!(registry.passed_through.len() <= PASSED_THROUGH);
    let again = registry.passed_through(&provider, &address, "known");
    assert!(Arc::ptr_eq(
        &again,
        &registry.passed_through(&provider, &address, "known")
    ));
    assert!(registry.snapshot(seconds(0)).is_empty());
}

#[test]
fn latency_follows_the_newest_answers() {
    let breaker = breaker();
    assert_eq!(breaker.latency(), None);
    let permit = breaker.admit(seconds(0), &COOLDOWN).unwrap();
    permit.answered_after(Duration::from_millis(100));
    assert_eq!(breaker.latency(), Some(Duration::from_millis(100)));
    permit.answered_after(Duration::from_millis(200));
    assert_eq!(breaker.latency(), Some(Duration::from_millis(120)));
    for _ in 0..40 {
        permit.answered_after(Duration::from_millis(10));
    }
    let settled = breaker.latency().unwrap();
    assert!((9..12).contains(&settled.as_millis()), "{settled:?}");
    permit.answered_after(Duration::ZERO);
    permit.answered_after(Duration::MAX);
    assert!(breaker.latency().is_some());
}
