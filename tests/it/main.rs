//! Drives the real program from outside, on free ports, against a scriptable provider.
#![expect(
    clippy::disallowed_methods,
    reason = "the bench measures the program by the real clock"
)]

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod bench_itself;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod health_and_listeners;
#[cfg(test)]
mod http;
#[cfg(test)]
mod pass_through;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod tokens_and_projects;
#[cfg(test)]
mod wait;
