//! From a socket to a Pingora session.
//!
//! [`bind()`] opens a listening socket, [`serve`] accepts on it once per runtime, [`Front`] reads
//! each head strictly and gives the request to the proxy, [`Drain`] ends it all in order.

mod accept;
mod bind;
mod connections;
mod counters;
mod descriptors;
mod drain;
mod framing;
mod front;
mod head;
mod holder;
mod refusal;
mod settings;
mod stream;

pub use accept::serve;
pub use bind::{BindError, bind};
pub use connections::ConnectionCount;
pub use counters::{Counter, FrontCounters};
pub use descriptors::{connections_for, raise_limit, soft_limit};
pub use drain::{Drain, Phase};
pub use front::Front;
pub use settings::FrontSettings;
