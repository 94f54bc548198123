//! What is paid by the picture, the second or the character: how much of it a request used, and may use.

use std::borrow::Cow;

use serde::Deserialize;

use super::body::{RequestBody, Understood};
use super::ctx::RequestCtx;
use crate::dialect::paths::{Family, Inference};
use crate::domain::{MediaUsage, ModelPrice, PerMillion};
use crate::metering::Meter;

/// Bytes of a millisecond of sound, where a provider does not say how long it was: 64 kbit/s.
const BYTES_A_MILLI: u64 = 8;

/// Pictures that one request may ask for at OpenAI.
const MOST_IMAGES: u64 = 10;

enum Media {
    /// Pictures are made.
    Made,
    /// Sound is listened to.
    Listened,
    /// A text is spoken.
    Spoken,
}

impl Media {
    fn of(ctx: &RequestCtx) -> Option<Self> {
        let path = ctx.path.as_ref()?;
        match path.facts.family {
            Family::Inference(Inference::Images) => Some(Self::Made),
            Family::Inference(Inference::Audio) if path.path.ends_with("/speech") => Some(Self::Spoken),
            Family::Inference(Inference::Audio) => Some(Self::Listened),
            _ => None,
        }
    }
}

/// Whether the price has one for what requests of this path use. A model that costs something by the picture alone has
/// none for a chat.
pub(super) fn fits(ctx: &RequestCtx, price: &ModelPrice) -> bool {
    let costs = |price: PerMillion| price != PerMillion::default();
    let by_media = match Media::of(ctx) {
        None => false,
        Some(Media::Made) => costs(price.image),
        Some(Media::Listened) => costs(price.audio_minute),
        Some(Media::Spoken) => costs(price.character),
    };
    by_media || !price.has_free_tokens() || price.is_free()
}

/// What the provider told of it, and what was certainly asked for.
pub(super) fn told(ctx: &RequestCtx, meter: &Meter) -> MediaUsage {
    let none = MediaUsage::default();
    match Media::of(ctx) {
        None => none,
        Some(Media::Made) => MediaUsage {
            images: meter.items(),
            ..none
        },
        Some(Media::Listened) => MediaUsage {
            audio_millis: meter.audio_millis().unwrap_or(0),
            ..none
        },
        Some(Media::Spoken) => MediaUsage {
            characters: spoken(ctx),
            ..none
        },
    }
}

/// The same where the provider told nothing: a sound is as long as its bytes say.
pub(super) fn thought(ctx: &RequestCtx, meter: Option<&Meter>) -> MediaUsage {
    let told = meter.map_or(MediaUsage::default(), |meter| told(ctx, meter));
    match Media::of(ctx) {
        Some(Media::Listened) if told.is_zero() => MediaUsage {
            audio_millis: body_bytes(ctx) / BYTES_A_MILLI,
            ..told
        },
        Some(Media::Spoken) if told.is_zero() => MediaUsage {
            characters: spoken(ctx),
            ..told
        },
        _ => told,
    }
}

/// At most so much, if that many answers were asked for. Whether it is sure: sounds may be of any length.
pub(super) fn bound(ctx: &RequestCtx, answers: u64) -> (MediaUsage, bool) {
    let none = MediaUsage::default();
    match Media::of(ctx) {
        None => (none, true),
        Some(Media::Made) => {
            // how many a form asks for is not read
            let is_form =
                matches!(&ctx.body, RequestBody::Held(held) if matches!(held.facts, Understood::Form(_)));
            let images = MediaUsage {
                images: if is_form { MOST_IMAGES } else { answers.max(1) },
                ..none
            };
            (images, !is_form)
        }
        // 8 kbit/s is the least that speech is written in
        Some(Media::Listened) => {
            let sound = MediaUsage {
                audio_millis: body_bytes(ctx),
                ..none
            };
            (sound, false)
        }
        Some(Media::Spoken) => {
            let spoken = MediaUsage {
                characters: body_bytes(ctx),
                ..none
            };
            (spoken, true)
        }
    }
}

fn body_bytes(ctx: &RequestCtx) -> u64 {
    match &ctx.body {
        RequestBody::Held(held) => held.bytes.len() as u64,
        RequestBody::Unread | RequestBody::Streamed => 0,
    }
}

#[derive(Deserialize)]
struct Speech<'a> {
    #[serde(borrow)]
    input: Cow<'a, str>,
}

fn spoken(ctx: &RequestCtx) -> u64 {
    let RequestBody::Held(held) = &ctx.body else {
        return 0;
    };
    serde_json::from_slice::<Speech<'_>>(&held.bytes).map_or(0, |speech| speech.input.chars().count() as u64)
}
