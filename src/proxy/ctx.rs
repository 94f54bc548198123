//! What one request carries through the hooks: each field a struct of one module.

use std::sync::Arc;

use super::arrival::Arrival;
use super::bill::Bill;
use super::body::RequestBody;
use super::caching::CacheState;
use super::outcome::Outcome;
use super::path::RequestPath;
use super::places::Place;
use crate::auth::Principal;
use crate::dialect::sse::StreamKind;
use crate::domain::Clock;
use crate::domain::PathClass;
use crate::limit::Reservation;
use crate::live::Snapshot;
use crate::telemetry::metrics::ActiveGuard;
use crate::upstream::Route;

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
    pub destination: Option<Route>,
    /// What the cache says.
    pub cache: CacheState,
    /// What was taken from limits and quota; dropping it settles.
    pub reservation: Option<Reservation>,
    /// What it has used.
    pub bill: Bill,
    /// How it went.
    pub outcome: Outcome,
    /// Its place among the concurrent requests.
    pub place: Option<Place>,
    /// Counts it as running.
    pub running: Option<ActiveGuard>,
}

impl RequestCtx {
    /// A request of which nothing is known yet.
    pub fn new(snapshot: Arc<Snapshot>, clock: &dyn Clock) -> Self {
        Self {
            snapshot,
            arrival: Arrival::at(clock),
            path: None,
            caller: None,
            body: RequestBody::default(),
            destination: None,
            cache: CacheState::default(),
            reservation: None,
            bill: Bill::default(),
            outcome: Outcome::default(),
            place: None,
            running: None,
        }
    }

    /// Whether the path is an inference path.
    pub fn is_inference(&self) -> bool {
        self.path
            .as_ref()
            .is_some_and(|path| path.class == PathClass::Inference)
    }

    /// Whether the request is the handshake of a WebSocket session.
    pub fn is_realtime(&self) -> bool {
        self.path
            .as_ref()
            .is_some_and(|path| path.class == PathClass::Realtime)
    }

    /// Whether the client asked for its answer as a stream.
    pub fn asks_for_stream(&self) -> bool {
        match &self.body {
            RequestBody::Held(held) => held.streaming(),
            RequestBody::Unread | RequestBody::Streamed => false,
        }
    }

    /// How a stream of this path is written.
    pub fn stream_kind(&self) -> Option<StreamKind> {
        self.path.as_ref().map(|path| path.facts.stream)
    }

    /// The model asked for.
    pub fn asked_model(&self) -> Option<String> {
        let in_path = self.path.as_ref().and_then(|path| path.model.as_deref());
        let in_body = match &self.body {
            RequestBody::Held(held) => held.model(),
            RequestBody::Unread | RequestBody::Streamed => None,
        };
        in_path.or(in_body).map(str::to_owned)
    }

    /// The model as a bounded label: its name if the operator configured it or it has a price, else `other`.
    pub fn model_label(&self) -> &str {
        let asked = match &self.body {
            RequestBody::Held(held) => held.model(),
            RequestBody::Unread | RequestBody::Streamed => None,
        };
        match (&self.outcome.public_model, asked) {
            (Some(name), _) => name,
            (None, Some(asked)) if self.snapshot.settings.prices.prices.knows(asked) => asked,
            (None, Some(_)) => "other",
            (None, None) => "",
        }
    }

    /// The provider has said all it has to say: the request's places under way are free. What it reserved of budgets stays
    /// until it is settled.
    pub fn end_places(&mut self) {
        self.bill.turn = None;
        if let Some(reservation) = &mut self.reservation {
            reservation.end_places();
        }
    }

    /// What is held for the request ends with it, not with the connection.
    pub fn release(&mut self) {
        self.cache.follower = None;
        self.cache.forward = None;
        self.reservation = None;
        self.bill.end_turn();
        self.place = None;
        self.running = None;
    }

    /// Whether the body can be sent again.
    pub fn body_can_be_repeated(&self) -> bool {
        !matches!(self.body, RequestBody::Streamed)
    }
}

impl Drop for RequestCtx {
    fn drop(&mut self) {
        super::bill::settle_dropped(self);
    }
}
