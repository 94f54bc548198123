//! `llm-proxy benchmark`: the same request again and again through a running proxy, and how long it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use super::{Failure, Global, output};
use crate::domain::spawn::spawn;
use crate::domain::{Clock, Secret, SystemClock};

/// The longest a request may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Largest answer read.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Flags of `benchmark`.
#[derive(Debug, Args)]
pub struct BenchmarkArguments {
    /// The proxy.
    #[arg(
        long,
        env = "PROXY_URL",
        default_value = "http://localhost:8080",
        value_name = "URL"
    )]
    base_url: String,
    /// The path that is called.
    #[arg(long, default_value = "/v1/chat/completions", value_name = "PATH")]
    endpoint: String,
    /// A token of the proxy.
    #[arg(long, env = "PROXY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: String,
    /// How many requests.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// How many at a time.
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// The body; without it a short chat request.
    #[arg(long, value_name = "JSON")]
    body: Option<String>,
    /// The method.
    #[arg(long, default_value = "POST")]
    method: Method,
    /// Ask for a cached answer, of at most so many seconds.
    #[arg(long, value_name = "SECONDS")]
    cache_ttl: Option<u32>,
}

/// One answer.
struct Sample {
    /// 0: none came.
    status: u16,
    taken: Duration,
    cached: bool,
}

/// Runs `benchmark`.
pub fn run(global: &Global, arguments: &BenchmarkArguments) -> Result<(), Failure> {
    let base = arguments.base_url.trim_end_matches('/');
    let call = Arc::new(Call {
        clock: SystemClock::shared(),
        url: [base, &arguments.endpoint].concat(),
        method: arguments.method.clone(),
        token: Secret::new(arguments.token.as_str()),
        body: match (&arguments.body, &arguments.method) {
            (Some(body), _) => body.clone().into(),
            (None, &Method::POST) => {
                json!({"model": "gpt-4.1-mini", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}).to_string().into()
            }
            (None, _) => Bytes::new(),
        },
        cache: arguments.cache_ttl.map(|seconds| format!("public, max-age={seconds}")),
    });
    // a request that cannot be built is a wrong flag, not a slow proxy
    call.request()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (samples, whole) = runtime.block_on(measure(&call, arguments));
    report(global, &samples, whole)
}

struct Call {
    clock: Arc<dyn Clock>,
    url: String,
    method: Method,
    token: Secret,
    body: Bytes,
    cache: Option<String>,
}

impl Call {
    fn request(&self) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.url)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(cache) = &self.cache {
            request = request.header(header::CACHE_CONTROL, cache);
        }
        request.body(Full::new(self.body.clone()))
    }

    async fn once(&self, client: &Client<HttpConnector, Full<Bytes>>) -> Sample {
        let from = self.clock.monotonic();
        let exchange = async {
            let response = client.request(self.request().ok()?).await.ok()?;
            let status = response.status().as_u16();
            let cached = response
                .headers()
                .get("x-proxy-cache")
                .is_some_and(|verdict| verdict == "hit");
            Limited::new(response.into_body(), ANSWER_BYTES)
                .collect()
                .await
                .ok()?;
            Some((status, cached))
        };
        let (status, cached) = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => (0, false),
        };
        Sample {
            status,
            taken: self.clock.monotonic().saturating_sub(from),
            cached,
        }
    }
}

async fn measure(call: &Arc<Call>, arguments: &BenchmarkArguments) -> (Vec<Sample>, Duration) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let (from, begun, requests) = (
        call.clock.monotonic(),
        Arc::new(AtomicU32::new(0)),
        arguments.requests,
    );
    let workers: Vec<_> = (0..arguments.concurrency.min(requests))
        .map(|_| {
            let (call, client, begun) = (Arc::clone(call), client.clone(), Arc::clone(&begun));
            spawn("benchmark", async move {
                let mut samples = Vec::new();
                while begun.fetch_add(1, Ordering::Relaxed) < requests {
                    samples.push(call.once(&client).await);
                }
                samples
            })
        })
        .collect();
    let mut samples = Vec::new();
    for worker in workers {
        samples.extend(worker.await.unwrap_or_default());
    }
    (samples, call.clock.monotonic().saturating_sub(from))
}

fn report(global: &Global, samples: &[Sample], whole: Duration) -> Result<(), Failure> {
    let mut taken: Vec<Duration> = samples.iter().map(|sample| sample.taken).collect();
    taken.sort();
    let at = |part: usize| {
        taken
            .get((taken.len().saturating_sub(1)) * part / 100)
            .copied()
            .unwrap_or_default()
    };
    let average = taken.iter().sum::<Duration>() / u32::try_from(taken.len()).unwrap_or(1).max(1);
    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    for sample in samples {
        let word = if sample.status == 0 {
            "no answer".to_owned()
        } else {
            sample.status.to_string()
        };
        *statuses.entry(word).or_default() += 1;
    }
    let hits = samples.iter().filter(|sample| sample.cached).count();
    let good = samples
        .iter()
        .filter(|sample| (200..300).contains(&sample.status))
        .count();
    let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let rows = [
        ("min", at(0)),
        ("average", average),
        ("p50", at(50)),
        ("p90", at(90)),
        ("p99", at(99)),
        ("max", at(100)),
    ];
    if global.json {
        let times: serde_json::Map<_, _> = rows
            .iter()
            .map(|(name, time)| ((*name).to_owned(), json!(ms(*time))))
            .collect();
        output::json(&json!({
            "requests": samples.len(), "seconds": whole.as_secs_f64(), "cache_hits": hits, "statuses": statuses, "milliseconds": times,
        }))?;
    } else {
        let per_second = samples.len() as f64 / whole.as_secs_f64().max(f64::EPSILON);
        output::line(&format!(
            "{} requests in {:.2} s, {per_second:.1} a second, {hits} cache hits",
            samples.len(),
            whole.as_secs_f64()
        ))?;
        let statuses: Vec<Vec<String>> = statuses
            .iter()
            .map(|(status, count)| vec![status.clone(), count.to_string()])
            .collect();
        output::table(&["STATUS", "REQUESTS"], &statuses)?;
        let times: Vec<Vec<String>> = rows
            .iter()
            .map(|(name, time)| vec![(*name).to_owned(), format!("{:.2}", ms(*time))])
            .collect();
        output::table(&["TIME", "MS"], &times)?;
    }
    if good == samples.len() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}
