//! The cache inside a real Pingora proxy, as the forwarding loop drives it.

use super::*;
use crate::config::CacheSettings;
use crate::domain::spawn::spawn;
use crate::domain::{ProjectId, SystemClock};
use async_trait::async_trait;
use pingora_cache::storage::HitHandler;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What the provider does with every request.
#[derive(Clone, Copy)]
struct Script {
    cache_control: &'static str,
    chunks: &'static [&'static str],
    /// Breaks off after the last chunk.
    cut: bool,
    /// Waits before the second chunk until it is told to go on.
    waits: bool,
}

const PLAIN: Script = Script {
    cache_control: "public, max-age=60",
    chunks: &["first ", "second"],
    cut: false,
    waits: false,
};

struct Edge {
    cache: ResponseCache,
    clock: Arc<dyn Clock>,
    settings: CacheSettings,
    script: Script,
    calls: AtomicU64,
    go_on: Notify,
}

#[derive(Default)]
struct Ctx {
    plan: Option<Plan>,
    key: Option<EntryKey>,
    outcome: Option<CacheOutcome>,
}

impl Ctx {
    fn lookup(&self) -> Option<Lookup> {
        match self.plan {
            Some(Plan::Lookup(lookup)) => Some(lookup),
            _ => None,
        }
    }
}

impl Edge {
    async fn answer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let mut head = ResponseHeader::build(200, None)?;
        head.insert_header("cache-control", self.script.cache_control)?;
        head.insert_header("etag", "\"v1\"")?;
        head.insert_header("set-cookie", "secret=1")?;
        head.insert_header("x-request-id", number.to_string())?;
        let lookup = ctx.lookup();
        let verdict = lookup.map(|lookup| {
            let facts = AnswerFacts {
                status: 200,
                headers: &head.headers,
                framing: Framing::Marked,
                encoding_is_ours: true,
                now: self.clock.now(),
            };
            (lookup, storable(&lookup, &self.settings, &facts))
        });
        ctx.outcome = Some(match (ctx.plan, verdict) {
            (_, Some((lookup, Ok(answer)))) => {
                let most = self.settings.max_object_bytes;
                let begun = self.cache.begin(&mut session.cache, &head, &answer, most).await;
                assert!(begun);
                CacheOutcome::Stored {
                    forced: answer.forced,
                    refresh: lookup.refresh,
                }
            }
            (_, Some((lookup, Err(_)))) => CacheOutcome::Miss {
                refresh: lookup.refresh,
            },
            (Some(Plan::Bypass(why)), _) => CacheOutcome::Bypass(why),
            (_, None) => unreachable!(),
        });
        self.show(&mut head, ctx)?;
        head.insert_header("transfer-encoding", "chunked")?;
        session.write_response_header(Box::new(head), false).await?;
        for (index, chunk) in self.script.chunks.iter().enumerate() {
            if index == 1 && self.script.waits {
                self.go_on.notified().await;
            }
            let chunk = Bytes::from_static(chunk.as_bytes());
            self.cache.write(&mut session.cache, chunk.clone()).await;
            session.write_response_body(Some(chunk), false).await?;
        }
        if self.script.cut {
            self.cache.abandon(&mut session.cache);
            return Error::e_explain(ErrorType::ConnectionClosed, "cut");
        }
        self.cache.finish(&mut session.cache).await;
        session.write_response_body(None, true).await
    }

    fn show(&self, head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
        let outcome = ctx.outcome.unwrap();
        self.cache.count(outcome);
        head.insert_header("x-proxy-cache", outcome.as_str())?;
        head.insert_header("cache-status", outcome.cache_status())?;
        Ok(())
    }
}

struct Hooks(Arc<Edge>);

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let head = session.req_header();
        let project = head
            .headers
            .get("x-project")
            .map_or(0, |value| value.as_bytes()[0]);
        ctx.plan = Some(Plan::of(&self.0.settings, head.method.as_str(), &head.headers));
        let mut key = EntryKey::of(&KeyParts {
            project: ProjectId::from_bytes([project; 16]),
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            targets: &[("p", "m")],
            headers: &head.headers,
            body: b"",
        });
        if head.method == "POST" {
            let body = session.read_request_body().await?.unwrap_or_default();
            let canonical = canonical_json(&body);
            let head = session.req_header();
            key = EntryKey::of(&KeyParts {
                project: key.project,
                method: "POST",
                path: head.uri.path(),
                query: None,
                targets: &[("p", "m")],
                headers: &head.headers,
                body: &canonical,
            });
        }
        ctx.key = Some(key);
        Ok(false)
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        if ctx.lookup().is_some() {
            self.0.cache.enable(&mut session.cache);
        }
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
        Ok(ctx.key.as_ref().unwrap().to_pingora())
    }

    async fn cache_hit_filter(
        &self,
        _: &mut Session,
        meta: &CacheMeta,
        _: &mut HitHandler,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(ctx.lookup().unwrap().verdict(meta, &*self.0.clock))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if session.cache.phase() == CachePhase::Hit {
            ctx.outcome = Some(if head.status == 304 {
                CacheOutcome::ConditionalHit
            } else {
                CacheOutcome::Hit
            });
            self.0.show(head, ctx)?;
        }
        Ok(())
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        self.0.answer(session, ctx).await.map(|()| false)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Ctx) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "nothing goes Pingora's own way here")
    }

    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true
    }
}

/// A proxy on a port of its own.
struct Running {
    port: u16,
    edge: Arc<Edge>,
    _shutdown: watch::Sender<bool>,
}

async fn start(script: Script, sharing: RunningFills) -> Running {
    let clock = SystemClock::shared();
    let edge = Edge {
        cache: ResponseCache::new(4 << 20, sharing, Arc::clone(&clock)),
        clock,
        settings: CacheSettings::default(),
        script,
        calls: AtomicU64::new(0),
        go_on: Notify::new(),
    };
    let edge = Arc::new(edge);
    let hooks = Hooks(Arc::clone(&edge));
    let proxy = Arc::new(http_proxy(&Arc::new(ServerConf::default()), hooks));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (shutdown, watch) = watch::channel(false);
    spawn("edge", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (proxy, watch) = (Arc::clone(&proxy), watch.clone());
            spawn("connection", async move {
                proxy.process_new(Box::new(Stream::from(stream)), &watch).await;
            });
        }
    });
    Running {
        port,
        edge,
        _shutdown: shutdown,
    }
}

impl Running {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> String {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n{fields}\r\n{body}",
            body.len()
        );
        rest(&mut self.send(&request).await).await
    }

    async fn get(&self, path: &str, fields: &str) -> String {
        self.ask("GET", path, fields, "").await
    }

    fn calls(&self) -> u64 {
        self.edge.calls.load(Ordering::SeqCst)
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn read_until(stream: &mut TcpStream, wanted: &str) {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "ended before `{wanted}`: {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
}

#[tokio::test]
async fn a_get_is_stored_and_then_answered_without_the_provider() {
    let proxy = start(PLAIN, RunningFills::Private).await;
    let first = proxy.get("/v1/a", "").await;
    assert!(first.contains("x-proxy-cache: stored"), "{first}");
    assert!(
        first.contains("cache-status: llm-proxy; stored; fwd=uri-miss\r\n"),
        "{first}"
    );
    let second = proxy.get("/v1/a", "").await.to_ascii_lowercase();
    assert!(second.contains("x-proxy-cache: hit"), "{second}");
    assert!(second.contains("cache-status: llm-proxy; hit"), "{second}");
    assert!(second.contains("content-length: 12"), "{second}");
    assert!(second.contains("age: 0"), "{second}");
    assert!(second.ends_with("first second"), "{second}");
    assert!(
        !second.contains("set-cookie") && !second.contains("x-request-id"),
        "{second}"
    );
    assert_eq!(proxy.calls(), 1);
    let head = proxy.ask("HEAD", "/v1/a", "", "").await;
    assert!(
        head.contains("x-proxy-cache: hit") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let range = proxy.get("/v1/a", "range: bytes=6-\r\n").await;
    assert!(range.contains("206") && range.ends_with("second"), "{range}");
    let other = proxy.get("/v1/a", "x-project: 2\r\n").await;
    assert!(
        other.contains("x-proxy-cache: stored"),
        "another project asks for itself: {other}"
    );
    let stats = proxy.edge.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.store.entries), (3, 2, 2));
}

#[tokio::test]
async fn a_client_that_has_it_gets_our_304() {
    let proxy = start(PLAIN, RunningFills::Private).await;
    proxy.get("/v1/a", "").await;
    let answer = proxy.get("/v1/a", "if-none-match: W/\"v1\"\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 304"), "{answer}");
    assert!(answer.contains("x-proxy-cache: conditional-hit"), "{answer}");
    let other = proxy.get("/v1/a", "if-none-match: \"v2\"\r\n").await;
    assert!(other.contains("x-proxy-cache: hit"), "{other}");
}

#[tokio::test]
async fn no_cache_asks_the_provider_and_replaces_what_is_stored() {
    let proxy = start(PLAIN, RunningFills::Private).await;
    proxy.get("/v1/a", "").await;
    let refreshed = proxy.get("/v1/a", "cache-control: no-cache\r\n").await;
    assert!(
        refreshed.contains("cache-status: llm-proxy; stored; fwd=request"),
        "{refreshed}"
    );
    assert_eq!(proxy.calls(), 2);
    let bypassed = proxy.get("/v1/a", "cache-control: no-store\r\n").await;
    assert!(bypassed.contains("x-proxy-cache: bypass"), "{bypassed}");
    assert!(proxy.get("/v1/a", "").await.contains("x-proxy-cache: hit"));
    assert_eq!(proxy.calls(), 3);
}

#[tokio::test]
async fn a_post_is_stored_by_its_meaning_if_it_asks_for_it() {
    let proxy = start(
        Script {
            cache_control: "",
            ..PLAIN
        },
        RunningFills::Private,
    )
    .await;
    let public = "cache-control: public\r\n";
    let plain = proxy.ask("POST", "/v1/a", "", "{}").await;
    assert!(plain.contains("x-proxy-cache: bypass"), "{plain}");
    let first = proxy.ask("POST", "/v1/a", public, r#"{"a":1,"b":2}"#).await;
    assert!(first.contains("stored; fwd=uri-miss; detail=forced"), "{first}");
    let same = proxy.ask("POST", "/v1/a", public, r#"{ "b":2, "a":1 }"#).await;
    assert!(same.contains("x-proxy-cache: hit"), "{same}");
    let other = proxy.ask("POST", "/v1/a", public, r#"{"a":1,"b":3}"#).await;
    assert!(other.contains("x-proxy-cache: stored"), "{other}");
}

#[tokio::test]
async fn a_cut_answer_is_not_stored() {
    let proxy = start(Script { cut: true, ..PLAIN }, RunningFills::Private).await;
    for calls in 1..=2 {
        let answer = proxy.get("/v1/a", "").await;
        assert!(!answer.ends_with("0\r\n\r\n"), "no end is pretended: {answer}");
        assert_eq!(proxy.calls(), calls);
    }
    assert_eq!(proxy.edge.cache.stats().store.entries, 0);
}

#[tokio::test]
async fn an_answer_that_may_not_be_kept_is_a_miss() {
    let proxy = start(
        Script {
            cache_control: "max-age=60",
            ..PLAIN
        },
        RunningFills::Private,
    )
    .await;
    for _ in 0..2 {
        let answer = proxy.get("/v1/a", "").await;
        assert!(answer.contains("x-proxy-cache: miss"), "{answer}");
        assert!(
            answer.contains("cache-status: llm-proxy; fwd=uri-miss\r\n"),
            "{answer}"
        );
    }
    assert_eq!(proxy.calls(), 2);
}

#[tokio::test]
async fn followers_of_a_shared_fill_get_the_whole_answer() {
    let proxy = start(Script { waits: true, ..PLAIN }, RunningFills::Shared).await;
    let request = "GET /v1/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let mut leader = proxy.send(request).await;
    read_until(&mut leader, "first").await;
    let mut followers = Vec::new();
    for _ in 0..5 {
        let mut follower = proxy.send(request).await;
        read_until(&mut follower, "first").await;
        followers.push(follower);
    }
    proxy.edge.go_on.notify_one();
    assert!(rest(&mut leader).await.contains("second"));
    for mut follower in followers {
        assert!(rest(&mut follower).await.contains("second"));
    }
    assert_eq!(proxy.calls(), 1);
    assert!(proxy.get("/v1/a", "").await.ends_with("first second"));
}
