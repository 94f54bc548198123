//! `llm-proxy chat`: talks to a model through the proxy.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use serde_json::{Value, json};

use super::completion::Chat;
use super::{Failure, Global, output};
use crate::domain::Secret;

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct ChatArguments {
    /// What to say; without it each line of standard input is said, until `exit` or its end.
    message: Option<String>,
    /// The proxy.
    #[arg(
        long,
        env = "PROXY_URL",
        default_value = "http://localhost:8080",
        value_name = "URL"
    )]
    proxy: String,
    /// A token of the proxy.
    #[arg(long, env = "PROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: String,
    /// The model.
    #[arg(long, env = "MODEL", default_value = "gpt-4.1-mini")]
    model: String,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.7)]
    temperature: f64,
    /// Longest answer in tokens; 0: the model's own bound.
    #[arg(long, default_value_t = 0)]
    max_tokens: u32,
    /// The system prompt.
    #[arg(long, default_value = "You are a helpful assistant.")]
    system: String,
    /// Show the answer as it comes.
    #[arg(
        long,
        env = "USE_STREAMING",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    stream: bool,
    /// Say what is sent.
    #[arg(short, long)]
    verbose: bool,
}

/// Runs `chat`.
pub fn run(global: &Global, arguments: &ChatArguments) -> Result<(), Failure> {
    let chat = Chat::new(&arguments.proxy, Secret::new(arguments.token.as_str()));
    let mut messages = vec![json!({"role": "system", "content": arguments.system})];
    if let Some(message) = &arguments.message {
        return say(global, arguments, &chat, &mut messages, message);
    }
    let input = std::io::stdin();
    let prompts = input.is_terminal() && !global.json;
    if prompts {
        output::line(&format!("talking to `{}`; `exit` ends it", arguments.model))?;
    }
    loop {
        if prompts {
            output::raw("> ")?;
        }
        let mut line = String::new();
        if input.lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "exit" | "quit" => return Ok(()),
            said => match say(global, arguments, &chat, &mut messages, said) {
                // a person may try again
                Err(Failure::Failed(why)) if prompts => output::error(&why, false),
                other => other?,
            },
        }
    }
}

fn say(
    global: &Global,
    arguments: &ChatArguments,
    chat: &Chat,
    messages: &mut Vec<Value>,
    said: &str,
) -> Result<(), Failure> {
    messages.push(json!({"role": "user", "content": said}));
    let mut body = json!({
        "model": arguments.model,
        "messages": messages,
        "temperature": arguments.temperature,
        "stream": arguments.stream,
    });
    if arguments.max_tokens > 0 {
        body["max_tokens"] = arguments.max_tokens.into();
    }
    if arguments.verbose {
        output::error(
            &format!("POST {}/v1/chat/completions {body}", arguments.proxy),
            false,
        );
    }
    let answered = chat.stream(
        &body,
        |piece| if global.json { Ok(()) } else { output::raw(piece) },
    );
    let answer = answered.inspect_err(|_| {
        messages.pop();
    })?;
    if global.json {
        output::json(&json!({"model": arguments.model, "answer": answer}))?;
    } else {
        output::line("")?;
    }
    messages.push(json!({"role": "assistant", "content": answer}));
    Ok(())
}
