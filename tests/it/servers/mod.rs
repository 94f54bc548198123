//! Private servers for the tests, on free ports, that end with the test process however it ends.

mod guarded;
mod postgres;
mod redis;
mod tls;

pub use guarded::spawn_bound_to_us;
pub use postgres::Postgres;
pub use redis::Redis;
pub use tls::tls_provider;

use std::net::TcpListener;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
