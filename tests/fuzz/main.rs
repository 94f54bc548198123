//! Mutates what comes from strangers and holds each reader against an oracle: a full parser, or itself in other pieces.
//!
//! A second each in `make test`; `make fuzz` runs each for ten minutes (`FUZZ_SECONDS`). `FUZZ_SEED` repeats a run. Inputs
//! begin with `corpus/`; one that fails is kept below `target/fuzz-failures/`.
#![expect(clippy::disallowed_methods, reason = "a run is measured by the real clock")]

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod targets;

#[cfg(test)]
mod runner {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use crate::mutate::Mutator;

    /// The longest a reader may take for one input.
    const SLOW: Duration = Duration::from_secs(5);

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    /// Feeds `target` mutated inputs of the corpus for as long as is wanted; its `Err` is a finding, and so is a panic.
    #[track_caller]
    pub fn fuzz(corpus: &str, mut target: impl FnMut(&[u8], &mut Mutator) -> Result<(), String>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/corpus")
            .join(corpus);
        let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .flatten()
            .map(|entry| std::fs::read(entry.path()).expect("a readable seed"))
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "no corpus in {}", folder.display());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let seed = number("FUZZ_SEED").unwrap_or(clock.as_nanos() as u64);
        let mut mutator = Mutator::new(seed);
        let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1));
        let mut runs = 0_u64;
        while Instant::now() < end {
            let input = if (runs as usize) < seeds.len() {
                seeds[runs as usize].clone()
            } else {
                mutator.mutate(&seeds)
            };
            let from = Instant::now();
            let verdict = catch_unwind(AssertUnwindSafe(|| target(&input, &mut mutator)));
            let finding = match verdict {
                Ok(Ok(())) if from.elapsed() < SLOW => None,
                Ok(Ok(())) => Some(format!("took {:?}", from.elapsed())),
                Ok(Err(why)) => Some(why),
                Err(_) => Some("panicked".to_owned()),
            };
            if let Some(why) = finding {
                let kept = keep(corpus, runs, &input);
                panic!(
                    "{corpus}: {why}\nrun {runs} of FUZZ_SEED={seed}, kept in {kept}\n{}",
                    input.escape_ascii()
                );
            }
            runs += 1;
        }
        println!("{corpus}: {runs} inputs, FUZZ_SEED={seed}");
    }

    fn keep(corpus: &str, run: u64, input: &[u8]) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz-failures");
        let path = folder.join(format!("{corpus}-{run}"));
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
        written.map_or_else(
            |error| format!("nothing ({error})"),
            |()| path.display().to_string(),
        )
    }
}
