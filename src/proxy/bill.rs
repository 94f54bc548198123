//! What a request has used: counted while its answer passes, and recorded before the client sees the end of it.

use std::sync::Arc;

use bytes::Bytes;

use super::EdgeProxy;
use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use super::media;
use super::outcome::Ending;
use crate::dialect::paths::{Family, Inference};
use crate::dialect::sse::StreamKind;
use crate::domain::{AttemptRecord, Clock, Dialect, ModelPrice, NanoUsd, Priced, TokenUsage, UsageRecord};
use crate::limit::{Limiter, Spent};
use crate::metering::meter::prompt_tokens;
use crate::metering::{Ledger, Meter, Metered, Opened};
use crate::upstream::catalogue::Target;
use crate::upstream::health::InFlight;
use crate::upstream::pace::Paced;
use crate::upstream::places::Place;
use crate::upstream::{AttemptKey, KeyOwner};

/// Longest of the client's words that are recorded, in characters.
const MOST_CHARACTERS: usize = 256;

/// What a request has used so far. A request that is dropped unsettled (its connection is cut at the end of the process, a
/// hook panicked) is recorded then.
#[derive(Debug, Default)]
pub struct Bill {
    /// Where a dropped request is recorded; there once something left.
    closer: Option<Closer>,
    attempts: Vec<AttemptRecord>,
    /// The attempt that left for a provider and whose end is not known.
    under_way: Option<UnderWay>,
    /// What the attempt under way takes at its provider, until the provider has said all.
    pub(super) turn: Option<Turn>,
    /// What the attempt under way took of its key's rate.
    pub(super) paced: Option<Paced>,
    /// What it has reserved, on disk.
    pub(super) opened: Option<Opened>,
    /// Its record is made.
    settled: bool,
    /// What it came to.
    pub total: Option<Total>,
}

/// A place at a provider, and being counted there.
#[derive(Debug)]
pub(super) struct Turn {
    pub _place: Place,
    pub _in_flight: Option<InFlight>,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Its tokens.
    pub usage: TokenUsage,
    /// Its cost.
    pub cost: NanoUsd,
}

#[derive(Debug)]
struct UnderWay {
    to: Asked,
    /// `None` while it is being counted elsewhere.
    meter: Option<Meter>,
}

/// What a record is made with when no hook comes any more.
struct Closer {
    ledger: Arc<Ledger>,
    limiter: Arc<Limiter>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Closer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}

/// Who was asked, for what, with whose key, and what came.
#[derive(Debug)]
struct Asked {
    provider: Arc<str>,
    dialect: Dialect,
    model: Option<Arc<str>>,
    /// The public name whose price counts, where it is not the one asked for.
    public: Option<Arc<str>>,
    key: KeyOwner,
    /// The name of the installation's key, where it has several.
    key_name: Option<Arc<str>>,
    status: u16,
    /// What the responses of a session have cost, each by itself.
    paid: Option<NanoUsd>,
}

impl Bill {
    /// A request leaves for a provider.
    pub(super) fn begin(&mut self, target: &Target, owner: KeyOwner, key: &AttemptKey, kind: StreamKind) {
        let provider = &target.provider;
        self.under_way = Some(UnderWay {
            to: Asked {
                provider: Arc::clone(&provider.name),
                dialect: provider.dialect,
                model: target.model.clone(),
                public: target.public.clone(),
                key: owner,
                key_name: key.pooled().map(|key| Arc::clone(&key.id)),
                status: 0,
                paid: None,
            },
            meter: Some(Meter::new(kind)),
        });
    }

    /// The provider has answered with a head.
    pub(super) fn answered(&mut self, status: u16) {
        if let Some(attempt) = &mut self.under_way {
            attempt.to.status = status;
        }
    }

    /// What the attempt under way was answered.
    pub(super) fn status(&self) -> Option<u16> {
        let status = self.under_way.as_ref()?.to.status;
        (status != 0).then_some(status)
    }

    /// The meter of the attempt under way.
    pub(super) fn meter(&mut self) -> Option<&mut Meter> {
        self.under_way.as_mut()?.meter.as_mut()
    }

    /// What the last attempt cost that came to nothing.
    pub(super) fn last_attempt_cost(&self) -> NanoUsd {
        self.attempts.last().map_or(NanoUsd::ZERO, |attempt| {
            NanoUsd::from_nanos(attempt.cost_nano_usd)
        })
    }

    /// Nothing of it is at a provider any more. A rate that was taken and is still there was taken for nothing: whoever is
    /// recorded has told what was used.
    pub(super) fn end_turn(&mut self) {
        self.turn = None;
        if let Some(paced) = self.paced.take() {
            paced.give_back();
        }
    }

    /// Whether a record is still to be made.
    pub(super) fn is_open(&self) -> bool {
        !self.settled && (self.under_way.is_some() || !self.attempts.is_empty())
    }
}

impl EdgeProxy {
    /// A request leaves for a provider with this key.
    pub(super) fn open_bill(&self, ctx: &mut RequestCtx, to: &Target, owner: KeyOwner, key: &AttemptKey) {
        let kind = ctx.stream_kind().unwrap_or(StreamKind::Other);
        ctx.bill.begin(to, owner, key, kind);
        if ctx.bill.closer.is_none() {
            ctx.bill.closer = Some(Closer {
                ledger: Arc::clone(&self.ledger),
                limiter: Arc::clone(&self.limiter),
                clock: Arc::clone(&self.clock),
            });
        }
        self.note_sent(ctx);
    }

    /// The attempt under way came to nothing, and another may follow. What it may have cost is charged: its input, as far as
    /// the provider can have read it, when no answer came at all.
    pub(super) async fn close_attempt(&self, ctx: &mut RequestCtx, may_have_cost: bool) {
        let Some(status) = ctx.bill.under_way.as_ref().map(|attempt| attempt.to.status) else {
            ctx.bill.end_turn();
            return;
        };
        ctx.bill.turn = None;
        let unanswered = may_have_cost && may_cost(ctx, status);
        let prompt = if unanswered {
            let body = request_text(ctx);
            counted(move || prompt_tokens(&body)).await.unwrap_or(0)
        } else {
            0
        };
        // taken when it is counted: a request that is dropped meanwhile is recorded all the same
        let Some(attempt) = ctx.bill.under_way.take() else {
            return;
        };
        let told = attempt.meter.and_then(|meter| meter.told());
        let metered = Metered {
            usage: told.unwrap_or(TokenUsage {
                prompt,
                ..TokenUsage::default()
            }),
            estimated: unanswered && told.is_none(),
        };
        let record = self.price(ctx, &attempt.to, metered);
        pace(ctx.bill.paced.take(), &record, attempt.to.dialect);
        ctx.bill.attempts.push(record);
    }

    /// Makes the record of a request, once: the answer has ended, or its last bytes are held until this is done. Under
    /// `ledger.durability: strict` it ends when the record is safe.
    pub(super) async fn settle_bill(&self, ctx: &mut RequestCtx, cut: bool) {
        if !ctx.bill.is_open() {
            return;
        }
        // the attempt stays where it is until it is counted: a request that is dropped meanwhile is recorded all the same
        let meter = ctx
            .bill
            .under_way
            .as_mut()
            .and_then(|attempt| attempt.meter.take());
        let counted = match meter {
            Some(meter) => Some(Self::read_meter(ctx, meter).await),
            None => None,
        };
        if let (Some(attempt), Some(metered)) = (ctx.bill.under_way.take(), counted) {
            let record = self.price(ctx, &attempt.to, metered);
            pace(ctx.bill.paced.take(), &record, attempt.to.dialect);
            ctx.bill.attempts.push(record);
        }
        ctx.bill.settled = true;
        let Some(record) = record_of(ctx, cut, &*self.clock) else {
            return;
        };
        ctx.bill.total = Some(Total {
            usage: record.usage,
            cost: record.cost,
        });
        let spent = spent(&record);
        let opened = ctx.bill.opened.take();
        self.ledger.record(record, opened).await;
        // WHY: here and where a request is dropped: nowhere else does what was reserved become a cost
        self.limiter.charge(ctx.reservation.as_mut(), &spent);
    }

    async fn read_meter(ctx: &RequestCtx, meter: Meter) -> Metered {
        let Some(attempt) = &ctx.bill.under_way else {
            return Metered::NOTHING;
        };
        if let Some(metered) = without_counting(ctx, &attempt.to, &meter) {
            return metered;
        }
        let media = media::thought(ctx, Some(&meter));
        let text = request_text(ctx);
        let counted = counted(move || meter.count(&text)).await;
        let metered = counted.unwrap_or(Metered {
            usage: TokenUsage::default(),
            estimated: true,
        });
        metered.with(media)
    }

    fn price(&self, ctx: &RequestCtx, attempt: &Asked, metered: Metered) -> AttemptRecord {
        let whole = (200..300).contains(&attempt.status) && is_priced(ctx);
        let nothing = metered.usage.is_zero();
        let record = attempt_record(ctx, attempt, metered);
        match price_of(ctx, attempt) {
            Some(price) if whole && record.cost_nano_usd == 0 && !price.is_free() => {
                self.metrics.count_priced_without_usage();
                log::warn!(provider = &*attempt.provider; "upstream `{}` told no usage for a priced model, and nothing could be counted", attempt.provider);
            }
            None if whole
                && !nothing
                && attempt.dialect != Dialect::Demo
                && ctx.snapshot.settings.prices.warns_of_unknown() =>
            {
                self.rooms.unpriced.warn(&model_of(ctx, attempt));
            }
            _ => {}
        }
        record
    }

    /// The request is over, whatever became of it: what is not recorded yet is.
    pub(super) async fn close_bill(&self, ctx: &mut RequestCtx) {
        let cut = ctx.outcome.ending != Ending::Complete;
        self.settle_bill(ctx, cut && ctx.outcome.refusal.is_none()).await;
    }
}

/// The key's rate is told what was used: Anthropic counts what it reads anew, the others everything. A refusal uses nothing.
fn pace(paced: Option<Paced>, record: &AttemptRecord, dialect: Dialect) {
    let Some(mut paced) = paced else { return };
    let usage = &record.usage;
    let used = match dialect {
        Dialect::Anthropic => usage.prompt.saturating_sub(usage.cache_read),
        Dialect::OpenAi | Dialect::Azure | Dialect::Demo => usage.prompt.saturating_add(usage.completion),
    };
    paced.correct(used);
}

/// The provider's name for the model, else the one asked for.
fn model_of(ctx: &RequestCtx, attempt: &Asked) -> String {
    match &attempt.model {
        Some(model) => model.to_string(),
        None => ctx.asked_model().unwrap_or_default(),
    }
}

fn price_of<'a>(ctx: &'a RequestCtx, attempt: &Asked) -> Option<&'a ModelPrice> {
    let asked = match &attempt.public {
        Some(public) => public.to_string(),
        None => ctx.asked_model().unwrap_or_default(),
    };
    find_price(
        ctx,
        &asked,
        &attempt.provider,
        attempt.dialect,
        attempt.model.as_deref(),
    )
}

/// The price of the model that was asked for at a provider, which may have its own name for it.
pub(super) fn find_price<'a>(
    ctx: &'a RequestCtx,
    asked: &str,
    provider: &str,
    dialect: Dialect,
    model: Option<&str>,
) -> Option<&'a ModelPrice> {
    let price = ctx.snapshot.settings.prices.prices.find(Priced {
        public: asked,
        provider,
        family: family(dialect),
        model: model.unwrap_or(asked),
    });
    price.filter(|price| media::fits(ctx, price))
}

fn attempt_record(ctx: &RequestCtx, attempt: &Asked, metered: Metered) -> AttemptRecord {
    let model = model_of(ctx, attempt);
    let priced = || price_of(ctx, attempt).map_or(NanoUsd::ZERO, |price| price.cost(&metered.usage));
    let cost = attempt.paid.unwrap_or_else(priced);
    AttemptRecord {
        provider: attempt.provider.to_string(),
        model: (!model.is_empty()).then(|| shortened(&model)),
        key_id: match attempt.key {
            KeyOwner::Project => "project",
            KeyOwner::Installation => attempt.key_name.as_deref().unwrap_or("installation"),
            KeyOwner::Nobody => "none",
        }
        .to_owned(),
        status: attempt.status,
        usage: metered.usage,
        cost_nano_usd: cost.nanos(),
        estimated: metered.estimated,
    }
}

/// A response of a session has used this. Answers what it cost.
pub(super) fn note_response(ctx: &mut RequestCtx, usage: TokenUsage) -> NanoUsd {
    let priced = ctx
        .bill
        .under_way
        .as_ref()
        .and_then(|attempt| price_of(ctx, &attempt.to));
    let cost = priced.map_or(NanoUsd::ZERO, |price| price.cost(&usage));
    if let Some(attempt) = &mut ctx.bill.under_way {
        attempt.to.paid = Some(attempt.to.paid.unwrap_or_default().plus(cost));
        if let Some(meter) = &mut attempt.meter {
            meter.response(usage);
        }
    }
    cost
}

/// What is known without counting text: the provider's figures, and that nothing was used.
fn without_counting(ctx: &RequestCtx, to: &Asked, meter: &Meter) -> Option<Metered> {
    let exact = |usage| Metered {
        usage,
        estimated: false,
    };
    if let Some(usage) = meter.told() {
        return Some(exact(usage).with(media::told(ctx, meter)));
    }
    if !may_cost(ctx, to.status) {
        return Some(Metered::NOTHING);
    }
    let media = media::told(ctx, meter);
    let pays_tokens = price_of(ctx, to).is_none_or(|price| !price.has_free_tokens());
    let is_all = media.images > 0 || media.audio_millis > 0 || !pays_tokens;
    (is_all && !media.is_zero()).then(|| exact(TokenUsage::default()).with(media))
}

/// Refusals of a provider cost nothing; an answer that never came may have.
fn may_cost(ctx: &RequestCtx, status: u16) -> bool {
    ((200..300).contains(&status) || status == 0) && is_priced(ctx)
}

/// Records a request that goes away unsettled.
pub(super) fn settle_dropped(ctx: &mut RequestCtx) {
    if !ctx.bill.is_open() {
        return;
    }
    let Some(closer) = ctx.bill.closer.take() else {
        return;
    };
    ctx.bill.settled = true;
    if let Some(attempt) = ctx.bill.under_way.take() {
        let body = request_body(ctx);
        // WHY: counted here, on the thread that serves requests: nobody comes after this
        let metered = match &attempt.meter {
            _ if !may_cost(ctx, attempt.to.status) => Metered::NOTHING,
            Some(meter) => without_counting(ctx, &attempt.to, meter)
                .unwrap_or_else(|| meter.count(&body).with(media::thought(ctx, Some(meter)))),
            None => {
                let usage = TokenUsage {
                    prompt: prompt_tokens(&body),
                    ..TokenUsage::default()
                };
                let metered = Metered {
                    usage,
                    estimated: true,
                };
                metered.with(media::thought(ctx, None))
            }
        };
        let record = attempt_record(ctx, &attempt.to, metered);
        ctx.bill.attempts.push(record);
    }
    if let Some(record) = record_of(ctx, true, &*closer.clock) {
        let spent = spent(&record);
        closer.ledger.offer(record, ctx.bill.opened.take());
        closer.limiter.charge(ctx.reservation.as_mut(), &spent);
    }
}

fn spent(record: &UsageRecord) -> Spent {
    Spent {
        token_id: record.token_id,
        project_id: record.project_id,
        cost: record.cost,
        tokens: record.usage.prompt.saturating_add(record.usage.completion),
        completion_tokens: record.usage.completion,
    }
}

fn record_of(ctx: &mut RequestCtx, cut: bool, clock: &dyn Clock) -> Option<UsageRecord> {
    let attempts = std::mem::take(&mut ctx.bill.attempts);
    let last = attempts.last()?;
    let caller = ctx.caller.as_ref()?;
    let provider: Arc<str> = last.provider.as_str().into();
    let served_model = last.model.as_deref().map(Arc::from);
    Some(UsageRecord {
        record_id: ctx.arrival.record_id,
        request_id: ctx.arrival.request_id().to_owned(),
        project_id: caller.project_id,
        token_id: caller.token_id,
        endpoint: ctx
            .path
            .as_ref()
            .map(|path| shortened(&path.path))
            .unwrap_or_default(),
        model: ctx
            .asked_model()
            .map(|model| shortened(&model))
            .unwrap_or_default(),
        provider,
        served_model,
        status: ctx.outcome.status,
        usage: attempts
            .iter()
            .fold(TokenUsage::default(), |sum, attempt| sum.plus(attempt.usage)),
        cost: attempts
            .iter()
            .map(|attempt| NanoUsd::from_nanos(attempt.cost_nano_usd))
            .sum(),
        estimated: attempts.iter().any(|attempt| attempt.estimated),
        cut,
        received_at: ctx.arrival.received_at,
        finished_at: clock.now(),
        duration: clock.monotonic().saturating_sub(ctx.arrival.started),
        time_to_first_byte: ctx.outcome.first_byte,
        attempts,
    })
}

/// Counts off the threads that serve requests.
pub(super) async fn counted<T: Send + 'static>(count: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(count).await.ok()
}

pub(super) fn request_body(ctx: &RequestCtx) -> Vec<Bytes> {
    match &ctx.body {
        RequestBody::Held(held) => vec![held.bytes.clone()],
        RequestBody::Unread | RequestBody::Streamed => Vec::new(),
    }
}

/// What of it can be text: files of a form are pictures and sounds.
pub(super) fn request_text(ctx: &RequestCtx) -> Vec<Bytes> {
    match &ctx.body {
        RequestBody::Held(held) if matches!(held.facts, Understood::Form(_)) => Vec::new(),
        _ => request_body(ctx),
    }
}

/// Whether calls of this path are paid by the token.
pub(super) fn is_priced(ctx: &RequestCtx) -> bool {
    ctx.path.as_ref().is_some_and(|path| match path.facts.family {
        Family::Inference(Inference::CountTokens | Inference::Moderations)
        | Family::ModelList
        | Family::ModelById
        | Family::Stateful
        | Family::Unknown => false,
        // `/v1/responses/input_tokens` counts, and answers nothing
        Family::Inference(_) => !path.path.ends_with("/input_tokens"),
        Family::Realtime => true,
    })
}

fn family(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "openai",
        Dialect::Anthropic => "anthropic",
        Dialect::Azure => "azure",
        Dialect::Demo => "demo",
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MOST_CHARACTERS).collect()
}

/// Models without a price that were warned of, each once.
#[derive(Debug)]
pub struct Unpriced(quick_cache::sync::Cache<u64, ()>);

/// How many of them are remembered; of more, the least seen are warned of again.
const MOST_UNPRICED: usize = 1000;

impl Default for Unpriced {
    fn default() -> Self {
        Self(quick_cache::sync::Cache::new(MOST_UNPRICED))
    }
}

impl Unpriced {
    fn warn(&self, model: &str) {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let key = BuildHasherDefault::<DefaultHasher>::default().hash_one(model);
        if self.0.get(&key).is_none() {
            self.0.insert(key, ());
            log::warn!(
                "model `{}` has no price and counts as free; give it one in `prices.overrides`, or set `prices.unknown`",
                shortened(model)
            );
        }
    }
}
