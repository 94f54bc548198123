//! What a request has used: counted while its answer passes, and recorded before the client sees the end of it.

use std::sync::Arc;

use bytes::Bytes;

use super::EdgeProxy;
use super::body::RequestBody;
use super::ctx::RequestCtx;
use super::outcome::Ending;
use crate::dialect::sse::StreamKind;
use crate::domain::{
    AttemptRecord, Denial, DenialCode, Dialect, NanoUsd, PathClass, Priced, TokenUsage, UsageRecord,
};
use crate::metering::meter::prompt_tokens;
use crate::metering::{Meter, Metered};
use crate::upstream::catalogue::Target;
use crate::upstream::{KeyOwner, Provider, Route};

/// Longest of the client's words that are recorded, in characters.
const MOST_CHARACTERS: usize = 256;

/// What a request has used so far.
#[derive(Debug, Default)]
pub struct Bill {
    attempts: Vec<AttemptRecord>,
    /// The attempt that left for a provider and whose end is not known.
    under_way: Option<UnderWay>,
    /// Its record is made.
    settled: bool,
    /// What it came to.
    pub total: Option<Total>,
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
    meter: Meter,
}

/// Who was asked, for what, with whose key, and what came.
#[derive(Debug)]
struct Asked {
    provider: Arc<str>,
    dialect: Dialect,
    model: Option<Arc<str>>,
    key: KeyOwner,
    status: u16,
}

impl Bill {
    /// A request leaves for a provider.
    pub(super) fn begin(
        &mut self,
        provider: &Provider,
        model: Option<&Arc<str>>,
        key: KeyOwner,
        kind: StreamKind,
    ) {
        self.under_way = Some(UnderWay {
            to: Asked {
                provider: Arc::clone(&provider.name),
                dialect: provider.dialect,
                model: model.cloned(),
                key,
                status: 0,
            },
            meter: Meter::new(kind),
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
        self.under_way.as_mut().map(|attempt| &mut attempt.meter)
    }

    /// Whether a record is still to be made.
    pub(super) fn is_open(&self) -> bool {
        !self.settled && (self.under_way.is_some() || !self.attempts.is_empty())
    }
}

impl EdgeProxy {
    /// A request leaves for a provider with this key.
    pub(super) fn open_bill(&self, ctx: &mut RequestCtx, to: &Target, key: KeyOwner) {
        let kind = ctx.stream_kind().unwrap_or(StreamKind::Other);
        ctx.bill.begin(&to.provider, to.model.as_ref(), key, kind);
        self.note_sent(ctx);
    }

    /// The attempt under way came to nothing, and another may follow. What it may have cost is charged: its input, as far as
    /// the provider can have read it, when no answer came at all.
    pub(super) async fn close_attempt(&self, ctx: &mut RequestCtx) {
        let Some(attempt) = ctx.bill.under_way.take() else {
            return;
        };
        let unanswered = attempt.to.status == 0 && is_priced_path(ctx);
        let metered = if unanswered {
            let body = request_body(ctx);
            let prompt = counted(move || prompt_tokens(&body)).await.unwrap_or(0);
            Metered {
                usage: TokenUsage {
                    prompt,
                    ..TokenUsage::default()
                },
                estimated: true,
            }
        } else {
            Metered {
                usage: attempt.meter.told().unwrap_or_default(),
                estimated: false,
            }
        };
        let record = self.price(ctx, &attempt.to, metered);
        ctx.bill.attempts.push(record);
    }

    /// Makes the record of a request, once: the answer has ended, or its last bytes are held until this is done. Under
    /// `ledger.durability: strict` it ends when the record is safe.
    pub(super) async fn settle_bill(&self, ctx: &mut RequestCtx, cut: bool) {
        if !ctx.bill.is_open() {
            return;
        }
        ctx.bill.settled = true;
        if let Some(attempt) = ctx.bill.under_way.take() {
            let metered = Self::read_meter(ctx, attempt.meter, attempt.to.status).await;
            let record = self.price(ctx, &attempt.to, metered);
            ctx.bill.attempts.push(record);
        }
        let Some(record) = self.record_of(ctx, cut) else {
            return;
        };
        ctx.bill.total = Some(Total {
            usage: record.usage,
            cost: record.cost,
        });
        self.ledger.record(record).await;
    }

    async fn read_meter(ctx: &RequestCtx, meter: Meter, status: u16) -> Metered {
        if let Some(usage) = meter.told() {
            return Metered {
                usage,
                estimated: false,
            };
        }
        // refusals of the provider cost nothing; an answer that never came may have
        let may_cost = (200..300).contains(&status) || status == 0;
        if !may_cost || !is_priced_path(ctx) {
            return Metered {
                usage: TokenUsage::default(),
                estimated: false,
            };
        }
        let body = request_body(ctx);
        let metered = counted(move || meter.count(&body)).await;
        metered.unwrap_or(Metered {
            usage: TokenUsage::default(),
            estimated: true,
        })
    }

    fn price(&self, ctx: &RequestCtx, attempt: &Asked, metered: Metered) -> AttemptRecord {
        let asked = ctx.asked_model();
        let asked = asked.as_deref().unwrap_or("");
        let model = attempt.model.as_deref().unwrap_or(asked);
        let price = ctx.snapshot.settings.prices.prices.find(Priced {
            public: asked,
            provider: &attempt.provider,
            family: family(attempt.dialect),
            model,
        });
        let whole = (200..300).contains(&attempt.status) && is_priced_path(ctx);
        let cost = match price {
            Some(price) => {
                if whole && metered.usage.is_zero() {
                    self.metrics.count_priced_without_usage();
                    log::warn!(provider = &*attempt.provider; "upstream `{}` told no usage for a priced model, and nothing could be counted", attempt.provider);
                }
                price.cost(&metered.usage)
            }
            None => {
                let matters = whole && !metered.usage.is_zero() && attempt.dialect != Dialect::Demo;
                if matters && ctx.snapshot.settings.prices.warns_of_unknown() {
                    self.rooms.unpriced.warn(model);
                }
                NanoUsd::ZERO
            }
        };
        AttemptRecord {
            provider: attempt.provider.to_string(),
            model: (!model.is_empty()).then(|| shortened(model)),
            key_id: match attempt.key {
                KeyOwner::Project => "project",
                KeyOwner::Installation => "installation",
                KeyOwner::Nobody => "none",
            }
            .to_owned(),
            status: attempt.status,
            usage: metered.usage,
            cost_nano_usd: cost.nanos(),
            estimated: metered.estimated,
        }
    }

    fn record_of(&self, ctx: &mut RequestCtx, cut: bool) -> Option<UsageRecord> {
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
            finished_at: self.clock.now(),
            duration: self.clock.monotonic().saturating_sub(ctx.arrival.started),
            time_to_first_byte: ctx.outcome.first_byte,
            attempts,
        })
    }

    /// Whether the model has a price, where that is asked for.
    pub(super) fn admit_price(ctx: &RequestCtx, route: &Route) -> Result<(), Denial> {
        let settings = &ctx.snapshot.settings.prices;
        if !settings.refuses_unknown() || !is_priced_path(ctx) {
            return Ok(());
        }
        let asked = ctx.asked_model();
        let asked = asked.as_deref().unwrap_or("");
        let has_price = |target: &Target| {
            target.provider.dialect == Dialect::Demo
                || settings
                    .prices
                    .find(Priced {
                        public: asked,
                        provider: &target.provider.name,
                        family: family(target.provider.dialect),
                        model: target.model.as_deref().unwrap_or(asked),
                    })
                    .is_some()
        };
        match route.usable().find(|target| !has_price(target)) {
            None => Ok(()),
            Some(target) => Err(Denial::new(
                DenialCode::PriceUnknown,
                format!(
                    "model `{}` of upstream `{}` has no price, and the operator refuses such models (`prices.unknown: refuse`)",
                    shortened(target.model.as_deref().unwrap_or(asked)),
                    target.provider.name
                ),
            )
            .with_param("model")),
        }
    }

    /// The request is over, whatever became of it: what is not recorded yet is.
    pub(super) async fn close_bill(&self, ctx: &mut RequestCtx) {
        let cut = ctx.outcome.ending != Ending::Complete;
        self.settle_bill(ctx, cut && ctx.outcome.refusal.is_none()).await;
    }
}

/// Counts off the threads that serve requests.
async fn counted<T: Send + 'static>(count: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(count).await.ok()
}

fn request_body(ctx: &RequestCtx) -> Vec<Bytes> {
    match &ctx.body {
        RequestBody::Held(held) => vec![held.bytes.clone()],
        RequestBody::Unread | RequestBody::Streamed => Vec::new(),
    }
}

/// Whether calls of this path are paid by the token.
fn is_priced_path(ctx: &RequestCtx) -> bool {
    ctx.path
        .as_ref()
        .is_some_and(|path| path.class == PathClass::Inference && path.path != "/v1/messages/count_tokens")
}

fn family(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "openai",
        Dialect::Anthropic => "anthropic",
        Dialect::Azure => "azure",
        Dialect::Demo => "demo",
    }
}

fn shortened(text: &str) -> String {
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
