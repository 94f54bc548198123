//! Which records are written: ours by the settings, those of dependencies never below info.

use env_logger::Builder;
use log::LevelFilter;

/// The prefix of our own targets.
const OURS: &str = "llm_proxy";

/// Dependencies that say too much. Pingora's proxy reports each failed request, which the access log does.
const NOISY: [(&str, LevelFilter); 9] = [
    ("pingora_proxy", LevelFilter::Off),
    ("pingora_proxy::proxy_cache", LevelFilter::Error),
    ("pingora_core::apps", LevelFilter::Error),
    ("pingora_core::services::listening", LevelFilter::Error),
    ("pingora_core::listeners", LevelFilter::Error),
    ("fred", LevelFilter::Warn),
    ("rustls", LevelFilter::Warn),
    ("tokio_postgres", LevelFilter::Warn),
    ("hyper", LevelFilter::Warn),
];

/// A builder that lets through what `level` and `directives` (`RUST_LOG`) allow. Also answers the
/// directives that were not understood, or are about others than us.
pub(super) fn builder(level: LevelFilter, directives: Option<&str>) -> (Builder, Vec<String>) {
    let mut builder = Builder::new();
    // dependencies trace whole heads, credentials included
    let others = level.min(LevelFilter::Info);
    builder.filter_level(others);
    for (target, noise) in NOISY {
        builder.filter_module(target, noise.min(others));
    }
    builder.filter_module(OURS, level);
    let mut ignored = Vec::new();
    for directive in directives.unwrap_or_default().split(',').map(str::trim) {
        if directive.is_empty() {
            continue;
        }
        match parse(directive) {
            Some((target, level)) => {
                builder.filter_module(target, level);
            }
            None => ignored.push(directive.to_owned()),
        }
    }
    (builder, ignored)
}

/// `level`, `target` or `target=level`; `None` when it is none of them or not about us.
fn parse(directive: &str) -> Option<(&str, LevelFilter)> {
    match directive.split_once('=') {
        Some((target, level)) => is_ours(target).then_some((target, level.parse().ok()?)),
        None if is_ours(directive) => Some((directive, LevelFilter::Trace)),
        None => Some((OURS, directive.parse().ok()?)),
    }
}

fn is_ours(target: &str) -> bool {
    target
        .strip_prefix(OURS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::{Level, Log, Metadata};

    #[track_caller]
    fn assert_enabled(level: LevelFilter, directives: &str, table: &[(&str, Level, bool)]) {
        let logger = builder(level, Some(directives)).0.build();
        for (target, level, expected) in table {
            let metadata = Metadata::builder().target(target).level(*level).build();
            assert_eq!(logger.enabled(&metadata), *expected, "{target} at {level}");
        }
    }

    #[test]
    fn dependencies_never_log_below_info() {
        for directives in ["", "trace", "pingora_core=trace", "hyper=debug,h2=trace"] {
            assert_enabled(
                LevelFilter::Trace,
                directives,
                &[
                    ("llm_proxy::proxy", Level::Trace, true),
                    ("pingora_core::protocols", Level::Info, true),
                    ("pingora_core::protocols", Level::Debug, false),
                    ("h2::codec", Level::Debug, false),
                    ("pingora_proxy", Level::Error, false),
                    ("pingora_core::apps", Level::Warn, false),
                    ("hyper", Level::Info, false),
                ],
            );
        }
    }

    #[test]
    fn directives_refine_our_own_targets() {
        assert_enabled(
            LevelFilter::Warn,
            "llm_proxy::proxy=debug, llm_proxy::store=error",
            &[
                ("llm_proxy::proxy::forward", Level::Debug, true),
                ("llm_proxy::store", Level::Warn, false),
                ("llm_proxy::auth", Level::Warn, true),
                ("llm_proxy::auth", Level::Info, false),
                ("pingora_core", Level::Info, false),
            ],
        );
        assert_enabled(
            LevelFilter::Info,
            "debug",
            &[("llm_proxy", Level::Debug, true), ("h2", Level::Debug, false)],
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let (_, ignored) = builder(
            LevelFilter::Info,
            Some("llm_proxy=loud,hyper=debug,nonsense,info"),
        );
        assert_eq!(ignored, ["llm_proxy=loud", "hyper=debug", "nonsense"]);
    }
}
