//! What one request carries through the hooks: each field a struct of one module.

use std::sync::Arc;

use super::arrival::Arrival;
use super::body::RequestBody;
use super::caching::CacheState;
use super::outcome::Outcome;
use super::path::RequestPath;
use super::places::Place;
use crate::auth::Principal;
use crate::limit::{RateView, Reservation};
use crate::live::Snapshot;
use crate::upstream::Destination;

/// The state of one request, from the first hook to the last, on one snapshot.
#[derive(Debug)]
pub struct RequestCtx {
    /// The configuration this request lives on.
    pub snapshot: Arc<Snapshot>,
    /// When, from where, under which names.
    pub arrival: Arrival,
    /// What its path stands for.
    pub path: Option<RequestPath>,
    /// Who sent it.
    pub caller: Option<Arc<Principal>>,
    /// Its body.
    pub body: RequestBody,
    /// Where it may go.
    pub destination: Option<Destination>,
    /// What the cache says.
    pub cache: CacheState,
    /// What was taken from limits and quota; dropping it settles.
    pub reservation: Option<Reservation>,
    /// How it went.
    pub outcome: Outcome,
    /// Its place among the concurrent requests.
    pub place: Option<Place>,
}

impl RequestCtx {
    /// The rate that the client should see: the tighter of token and project.
    pub fn rate_fields(&self) -> Option<RateView> {
        self.reservation.as_ref().and_then(Reservation::rate_view)
    }
}
