//! Embeddings of the demonstration provider: the same text always gives the same unit vector.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::prompt::Prompt;
use super::{DemoAnswer, DemoRequest, refusal};

const DEFAULT_DIMENSIONS: u64 = 1536;
const MAX_DIMENSIONS: u64 = 3072;
const MAX_INPUTS: usize = 64;

pub(super) fn embeddings(request: &DemoRequest<'_>, body: &Value, prompt: &Prompt) -> DemoAnswer {
    let input = body.get("input").unwrap_or(&Value::Null);
    let is_one_input = !input
        .as_array()
        .is_some_and(|items| items.iter().any(|item| !item.is_number()));
    let inputs = if is_one_input {
        std::slice::from_ref(input)
    } else {
        input.as_array().map_or(&[][..], Vec::as_slice)
    };
    if inputs.len() > MAX_INPUTS {
        return refusal(request, 400, "the demo provider embeds at most 64 inputs at once");
    }
    let dimensions = body
        .get("dimensions")
        .and_then(Value::as_u64)
        .unwrap_or(DEFAULT_DIMENSIONS);
    let dimensions = dimensions.clamp(1, MAX_DIMENSIONS);
    let as_base64 = body
        .get("encoding_format")
        .is_some_and(|format| format == "base64");
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = unit_vector(&input.to_string(), dimensions);
            let embedding: Value = if as_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                STANDARD.encode(bytes).into()
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": prompt.tokens, "total_tokens": prompt.tokens});
    DemoAnswer::json(
        200,
        &json!({"object": "list", "data": data, "model": prompt.model, "usage": usage}),
    )
}

/// Numbers from a small generator seeded with the text, scaled to length one.
fn unit_vector(text: &str, dimensions: u64) -> Vec<f32> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let mut vector: Vec<f32> = (0..dimensions)
        .map(|_| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect();
    let length = vector
        .iter()
        .map(|number| number * number)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    for number in &mut vector {
        *number /= length;
    }
    vector
}
