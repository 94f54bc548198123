//! Keeps a flood of denials from drowning the trail: so many a second are written, the rest is counted.

use std::time::Duration;

use parking_lot::Mutex;

/// Denied events written in one second.
const MOST_PER_SECOND: u32 = 100;

#[derive(Debug, Default)]
pub struct Flood {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    second: u64,
    admitted: u32,
}

impl Flood {
    /// Whether one more may be written at `now`.
    pub fn admit(&self, now: Duration) -> bool {
        let mut window = self.window.lock();
        if window.second != now.as_secs() {
            *window = Window {
                second: now.as_secs(),
                admitted: 0,
            };
        }
        let admitted = window.admitted < MOST_PER_SECOND;
        window.admitted += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_a_hundred() {
        let flood = Flood::default();
        let admitted = |second| {
            (0..150)
                .filter(|_| flood.admit(Duration::from_secs(second)))
                .count()
        };
        assert_eq!((admitted(0), admitted(1), admitted(1)), (100, 100, 0));
    }
}
