//! Drives the real program from outside, on free ports, against a scriptable provider.
#![expect(
    clippy::disallowed_methods,
    reason = "the bench measures the program by the real clock"
)]

#[cfg(test)]
mod aliases;
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod bench_itself;
#[cfg(test)]
mod broken_providers;
mod budgets;
#[cfg(test)]
mod cache;
mod cache_rules;
mod cache_together;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod config_history;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod difficult_clients;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod edge;
mod encoded_answers;
#[cfg(test)]
mod encryption;
#[cfg(test)]
mod fault_scenarios;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod health_and_listeners;
#[cfg(test)]
mod heartbeat;
mod hostile_http;
#[cfg(test)]
mod hostile_json;
#[cfg(test)]
mod http;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod many_records;
mod many_tokens;
#[cfg(test)]
mod media;
#[cfg(test)]
#[path = "../fuzz/mutate.rs"]
mod mutate;
mod mutated_requests;
#[cfg(test)]
mod packaging;
#[cfg(test)]
mod pass_through;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod realtime;
mod realtime_money;
#[cfg(test)]
mod recovery;
mod refusals;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod service;
#[cfg(test)]
mod settings_seen;
#[cfg(test)]
mod several_providers;
#[cfg(test)]
mod steady_load;
mod stores_in_trouble;
#[cfg(test)]
mod strategies;
mod streaming;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod tokens_and_projects;
#[cfg(test)]
mod uploads;
mod usage;
#[cfg(test)]
mod wait;
