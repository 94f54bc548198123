//! What was found, inside a real Pingora proxy: its cache phases answer from what the search has chosen.

use super::*;
use crate::config::CacheSettings;
use crate::domain::spawn::spawn;
use crate::domain::{ProjectId, SystemClock};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::storage::HitHandler;
use pingora_cache::{CacheMeta, ForcedFreshness};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

struct Edge {
    cache: ResponseCache,
    clock: Arc<dyn Clock>,
    settings: CacheSettings,
    calls: AtomicU64,
    /// The second half waits for it.
    go_on: Notify,
    /// The answer breaks off there.
    cut: bool,
}

#[derive(Default)]
struct Ctx {
    key: Option<EntryKey>,
    lookup: Option<Lookup>,
    chosen: Option<Chosen>,
    follower: Option<Follower>,
    lead: Option<Lead>,
}

struct Hooks(Arc<Edge>);

impl Edge {
    async fn answer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut head = ResponseHeader::build(200, None)?;
        head.insert_header("cache-control", "public, max-age=60")?;
        head.insert_header("etag", "\"v1\"")?;
        head.insert_header("set-cookie", "secret=1")?;
        head.insert_header("x-request-id", "theirs")?;
        let facts = AnswerFacts {
            status: 200,
            headers: &head.headers,
            framing: Framing::Marked,
            encoding_is_ours: true,
            now: self.clock.now(),
        };
        let answer = storable(&ctx.lookup.unwrap(), &self.settings, &facts).unwrap();
        let (key, request) = (ctx.key.as_ref().unwrap(), &session.req_header().headers);
        let mut writer = self
            .cache
            .begin(key, request, &head, &answer, 1 << 20, ctx.lead.as_ref());
        head.insert_header("transfer-encoding", "chunked")?;
        session.write_response_header(Box::new(head), false).await?;
        for (index, piece) in ["first ", "second"].into_iter().enumerate() {
            if index == 1 {
                self.go_on.notified().await;
                if self.cut {
                    writer.break_off(Some(Bytes::from("last words")));
                    return Error::e_explain(ErrorType::ConnectionClosed, "cut");
                }
            }
            writer.write(Bytes::from(piece));
            session
                .write_response_body(Some(Bytes::from(piece)), false)
                .await?;
        }
        writer.finish();
        session.write_response_body(None, true).await
    }
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let head = session.req_header();
        let Plan::Lookup(lookup) = Plan::of(
            &self.0.settings,
            head.method.as_str(),
            &head.headers,
            RuleFacts::default(),
        ) else {
            panic!("looked up");
        };
        let key = EntryKey::of(&KeyParts {
            project: ProjectId::from_bytes([1; 16]),
            token: None,
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            targets: &[("p", "m")],
            headers: &head.headers,
            body: b"",
        });
        let question = Question {
            key: &key,
            headers: &head.headers,
            lookup,
            coalesce: true,
        };
        let mut said = self.0.cache.ask(question);
        while let Said::Wait(waiting) = said {
            said = waiting.answer(&self.0.cache, question).await;
        }
        match said {
            Said::Hit { chosen, follower } => (ctx.chosen, ctx.follower) = (Some(chosen), follower),
            Said::Forward(forward) => ctx.lead = forward.lead,
            Said::Wait(_) => unreachable!(),
        }
        (ctx.key, ctx.lookup) = (Some(key), Some(lookup));
        Ok(false)
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        if ctx.chosen.is_some() {
            self.0.cache.enable(&mut session.cache);
        }
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
        Ok(ctx.key.as_ref().unwrap().to_pingora(ctx.chosen.clone().unwrap()))
    }

    async fn cache_hit_filter(
        &self,
        _: &mut Session,
        _: &CacheMeta,
        _: &mut HitHandler,
        _: bool,
        _: &mut Ctx,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(Some(ForcedFreshness::ForceFresh))
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, _: &mut Ctx) -> Result<()> {
        head.insert_header("x-found", "1")
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

async fn start(cut: bool) -> Running {
    let clock = SystemClock::shared();
    let edge = Arc::new(Edge {
        cache: ResponseCache::new(4 << 20, Arc::clone(&clock)),
        clock,
        settings: CacheSettings::default(),
        calls: AtomicU64::new(0),
        go_on: Notify::new(),
        cut,
    });
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
    async fn send(&self, method: &str, fields: &str) -> TcpStream {
        let request = format!("{method} /v1/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{fields}\r\n");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, method: &str, fields: &str) -> String {
        self.edge.go_on.notify_one();
        rest(&mut self.send(method, fields).await).await
    }

    fn calls(&self) -> u64 {
        self.edge.calls.load(Ordering::SeqCst)
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap().to_ascii_lowercase()
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
async fn pingora_answers_conditions_ranges_and_head_from_what_was_chosen() {
    let proxy = start(false).await;
    let first = proxy.ask("GET", "").await;
    assert!(!first.contains("x-found"), "{first}");
    let second = proxy.ask("GET", "").await;
    for wanted in ["x-found: 1", "content-length: 12", "age: 0", "etag: \"v1\""] {
        assert!(second.contains(wanted), "{wanted}: {second}");
    }
    assert!(second.ends_with("first second"), "{second}");
    assert!(
        !second.contains("set-cookie") && !second.contains("x-request-id"),
        "{second}"
    );
    let head = proxy.ask("HEAD", "").await;
    assert!(
        head.contains("content-length: 12") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let range = proxy.ask("GET", "range: bytes=6-\r\n").await;
    assert!(range.contains("206") && range.ends_with("second"), "{range}");
    let unchanged = proxy.ask("GET", "if-none-match: W/\"v1\"\r\n").await;
    assert!(unchanged.starts_with("http/1.1 304"), "{unchanged}");
    let changed = proxy.ask("GET", "if-none-match: \"v2\"\r\n").await;
    assert!(changed.starts_with("http/1.1 200"), "{changed}");
    assert_eq!(proxy.calls(), 1);
}

#[tokio::test]
async fn followers_read_the_fill_as_it_comes_to_its_clean_end() {
    let proxy = start(false).await;
    let mut leader = proxy.send("GET", "").await;
    read_until(&mut leader, "first").await;
    let mut followers = Vec::new();
    for _ in 0..5 {
        let mut follower = proxy.send("GET", "").await;
        read_until(&mut follower, "first").await;
        followers.push(follower);
    }
    proxy.edge.go_on.notify_one();
    for stream in std::iter::once(&mut leader).chain(&mut followers) {
        let text = rest(stream).await;
        assert!(text.contains("second") && text.ends_with("0\r\n\r\n"), "{text}");
    }
    assert_eq!((proxy.calls(), proxy.edge.cache.stats().coalesced), (1, 5));
    assert!(proxy.ask("GET", "").await.ends_with("first second"));
}

#[tokio::test]
async fn followers_of_a_broken_fill_get_its_last_words_and_no_end() {
    let proxy = start(true).await;
    let mut leader = proxy.send("GET", "").await;
    read_until(&mut leader, "first").await;
    let mut follower = proxy.send("GET", "").await;
    read_until(&mut follower, "first").await;
    proxy.edge.go_on.notify_one();
    let text = rest(&mut follower).await;
    assert!(
        text.contains("last words") && !text.ends_with("0\r\n\r\n"),
        "{text}"
    );
    assert_eq!(proxy.edge.cache.stats().store.entries, 0);
}
