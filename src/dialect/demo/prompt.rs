//! What the demonstration provider takes from a request, and the text it answers with.

use serde_json::Value;

use crate::dialect::paths::Inference;

/// Characters of the question that the answer repeats.
const MAX_QUOTED_CHARACTERS: usize = 120;

/// A question, understood as far as a demonstration needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) model: String,
    /// The length of the question in tokens, at about four characters each.
    pub(super) tokens: u64,
    /// The answer, in pieces that concatenate to its text; one piece counts as one token.
    pub(super) words: Vec<String>,
    /// The answer was cut by the client's limit.
    pub(super) cut_by_limit: bool,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// How many choices are wanted.
    pub(super) choices: u64,
}

impl Prompt {
    pub(super) fn of(inference: Inference, body: &Value) -> Self {
        let question = question(inference, body);
        let limit = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
            .iter()
            .filter_map(|name| body.get(name)?.as_u64())
            .max();
        let mut words = words(&answer_to(&question));
        let limit = limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX)
            .max(1);
        let cut_by_limit = words.len() > limit;
        words.truncate(limit);
        Self {
            model: body
                .get("model")
                .and_then(Value::as_str)
                .unwrap_or("demo")
                .to_owned(),
            tokens: tokens_in(body),
            words,
            cut_by_limit,
            stream: body.get("stream").and_then(Value::as_bool).unwrap_or(false),
            include_usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
            choices: body
                .get("n")
                .and_then(Value::as_u64)
                .unwrap_or(1)
                .clamp(1, super::MAX_CHOICES),
        }
    }

    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn answer_tokens(&self) -> u64 {
        self.words.len() as u64
    }
}

/// The last thing the user said.
fn question(inference: Inference, body: &Value) -> String {
    let asked = match inference {
        Inference::Completions => body.get("prompt"),
        Inference::Responses => body.get("input"),
        _ => body.get("messages"),
    };
    let text = asked.and_then(last_text).unwrap_or_default();
    let mut quoted: String = text.chars().take(MAX_QUOTED_CHARACTERS).collect();
    if text.chars().nth(MAX_QUOTED_CHARACTERS).is_some() {
        quoted.push('…');
    }
    quoted.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The last text in a prompt, a list of messages or a list of content parts.
fn last_text(value: &Value) -> Option<&str> {
    let mut value = value;
    // messages → content → part → text: no question is nested deeper
    for _ in 0..6 {
        value = match value {
            Value::String(text) => return Some(text),
            Value::Array(items) => items.iter().rev().find(|item| may_hold_text(item))?,
            Value::Object(_) => value.get("content").or_else(|| value.get("text"))?,
            _ => return None,
        };
    }
    None
}

fn may_hold_text(item: &Value) -> bool {
    let by_user = item.get("role").is_none_or(|role| role == "user");
    by_user && (item.is_string() || item.get("content").is_some() || item.get("text").is_some())
}

fn answer_to(question: &str) -> String {
    let mut text = String::from(
        "Hello from the built-in demo provider of llm-proxy. No provider key is configured, so no real model \
         has read your question and these words are canned.",
    );
    if !question.is_empty() {
        text.extend([" You asked: “", question, "”."]);
    }
    text.push_str(
        " Everything around them is real: your token was checked, its limits were counted, and this answer \
         came through the proxy piece by piece. Give a provider its key, and the next answer comes from a model.",
    );
    text
}

/// Splits a text before each blank.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// About one token for four bytes of all texts in the body.
fn tokens_in(body: &Value) -> u64 {
    fn bytes(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(bytes).sum(),
            Value::Object(members) => members.values().map(bytes).sum(),
            _ => 0,
        }
    }
    let asked = ["messages", "prompt", "input", "system", "instructions", "tools"];
    asked
        .iter()
        .filter_map(|name| body.get(name))
        .map(bytes)
        .sum::<u64>()
        .div_ceil(4)
        .max(1)
}
