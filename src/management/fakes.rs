//! A control plane over stores in memory, for tests.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::ports::{
    AuditTrail, CacheAdmin, CacheStats, ConfigView, KeyState, MetricsView, ModelEntry, ModelTarget,
    ModelView, ProviderEntry, ProviderHealth, ProviderView, Purge, PurgeOutcome, Readiness, ReadyState,
    ReloadAnswer, UsageFlush,
};
use super::{
    Listener, ManagementSettings, ManagementTokens, OwnPaths, OwnRequest, OwnResponse, Role, Services,
};
use crate::domain::UsageRecord;
use crate::domain::audit::{AuditEvent, AuditSink};
use crate::domain::crypto::Sealer;
use crate::domain::ids::AuditId;
use crate::domain::patch::{ProjectPatch, TokenPatch};
use crate::domain::{
    Dialect, ManualClock, NanoUsd, Project, ProjectId, Secret, Timestamp, Token, TokenHash, TokenId,
};
use crate::fleet::{ChangeListener, Changed};
use crate::store::tokens::RevokeCounts;
use crate::store::{
    AuditFilter, AuditStore, GrantOutcome, Grants, Page, Paged, ProjectStore, StoreError, StoredPrincipal,
    TokenFilter, TokenStore,
};
use crate::store::{LedgerStore, RecordFilter, Spending, UsageQuery, UsageRow};

pub const ADMIN: &str = "admin-token-for-tests";
pub const VIEWER: &str = "viewer-token-for-tests";
pub const SCRAPER: &str = "metrics-token-for-tests";

/// Everything a test may look at or break.
#[derive(Default)]
pub struct World {
    pub projects: Mutex<Vec<Project>>,
    pub tokens: Mutex<Vec<(Token, TokenHash)>>,
    pub events: Mutex<Vec<AuditEvent>>,
    pub changes: Mutex<Vec<Changed>>,
    pub forgotten: Mutex<BTreeSet<TokenId>>,
    pub purges: Mutex<Vec<Purge>>,
    pub trouble: Mutex<Option<StoreError>>,
    pub ready: Mutex<Option<ReadyState>>,
    pub refuse_reload: AtomicBool,
    pub cache_off: AtomicBool,
    pub default_without_key: AtomicBool,
    pub flushed: AtomicBool,
}

pub struct Bench {
    pub own: Arc<OwnPaths>,
    pub world: Arc<World>,
    pub clock: Arc<ManualClock>,
}

impl Bench {
    pub fn new() -> Self {
        let world = Arc::new(World::default());
        let clock = ManualClock::at(Timestamp::parse_rfc3339("2026-01-31T12:00:00Z").unwrap());
        let services = Services {
            clock: clock.clone(),
            projects: world.clone(),
            tokens: world.clone(),
            audit_store: Some(world.clone()),
            grants: world.clone(),
            sealer: Arc::new(Sealer::plain()),
            changes: world.clone(),
            ledger: world.clone(),
            usage: world.clone(),
            audit: world.clone(),
            configuration: world.clone(),
            providers: world.clone(),
            models: world.clone(),
            cache: world.clone(),
            metrics: world.clone(),
            readiness: world.clone(),
        };
        Self {
            own: OwnPaths::new(services, settings("127.0.0.1:8081")),
            world,
            clock,
        }
    }

    /// One request by an admin on the sidecar.
    pub async fn admin(&self, method: &str, path: &str, body: Value) -> Seen {
        self.by(ADMIN, method, path, body).await
    }

    /// One request with a bearer on the sidecar.
    pub async fn by(&self, bearer: &str, method: &str, path: &str, body: Value) -> Seen {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(request(method, path, Some(bearer), body)).await
    }

    pub async fn send(&self, request: OwnRequest) -> Seen {
        let OwnResponse {
            status,
            headers,
            body,
        } = self.own.handle(request).await;
        Seen {
            status: status.as_u16(),
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
            headers,
            body,
        }
    }

    /// A project made through the API.
    pub async fn project(&self, name: &str) -> String {
        let seen = self
            .admin(
                "POST",
                "/manage/projects",
                json!({"name": name, "api_key": "sk-provider-1234567890"}),
            )
            .await;
        assert_eq!(seen.status, 201, "{:?}", seen.json);
        seen.json["id"].as_str().unwrap().to_owned()
    }

    /// A token made through the API.
    pub async fn token(&self, project: &str) -> String {
        let seen = self
            .admin(
                "POST",
                "/manage/tokens",
                json!({"project_id": project, "duration_minutes": 60}),
            )
            .await;
        assert_eq!(seen.status, 200, "{:?}", seen.json);
        seen.json["id"].as_str().unwrap().to_owned()
    }

    pub fn last_event(&self) -> AuditEvent {
        self.world.events.lock().last().unwrap().clone()
    }
}

pub struct Seen {
    pub status: u16,
    pub headers: HeaderMap,
    pub json: Value,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn error(&self) -> &str {
        self.json["error"].as_str().unwrap_or_default()
    }
}

pub fn settings(sidecar: &str) -> ManagementSettings {
    ManagementSettings {
        tokens: ManagementTokens::main(&Secret::new(ADMIN))
            .and("dashboards", &Secret::new(VIEWER), Role::Viewer)
            .and("prometheus", &Secret::new(SCRAPER), Role::Metrics),
        metrics_enabled: true,
        metrics_path: "/metrics".to_owned(),
        sidecar: Some(sidecar.parse().unwrap()),
    }
}

pub fn request(method: &str, path: &str, bearer: Option<&str>, body: impl Into<Bytes>) -> OwnRequest {
    let mut headers = HeaderMap::new();
    if let Some(bearer) = bearer {
        let value = HeaderValue::from_str(&format!("Bearer {bearer}")).unwrap();
        headers.insert(header::AUTHORIZATION, value);
    }
    OwnRequest {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        uri: path.parse().unwrap(),
        headers,
        body: body.into(),
        client: IpAddr::from([127, 0, 0, 1]),
        via: Listener::Sidecar,
    }
}

impl World {
    fn check(&self) -> Result<(), StoreError> {
        self.trouble.lock().clone().map_or(Ok(()), Err)
    }
}

fn page_of<T: Clone>(rows: &[T], page: Page) -> Paged<T> {
    let start = (page.number as usize - 1) * page.size as usize;
    Paged {
        rows: rows
            .iter()
            .skip(start)
            .take(page.size as usize)
            .cloned()
            .collect(),
        total: rows.len() as u64,
    }
}

#[async_trait]
impl ProjectStore for World {
    async fn get(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        self.check()?;
        Ok(self.projects.lock().iter().find(|p| p.id == id).cloned())
    }

    async fn list(&self, page: Page) -> Result<Paged<Project>, StoreError> {
        self.check()?;
        let mut rows = self.projects.lock().clone();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(page_of(&rows, page))
    }

    async fn create(&self, project: &Project) -> Result<(), StoreError> {
        self.check()?;
        let mut projects = self.projects.lock();
        if projects.iter().any(|p| p.name == project.name) {
            return Err(StoreError::Conflict(project.name.clone()));
        }
        projects.push(project.clone());
        Ok(())
    }

    async fn patch(
        &self,
        id: ProjectId,
        patch: &ProjectPatch,
        now: Timestamp,
    ) -> Result<Option<Project>, StoreError> {
        self.check()?;
        let mut projects = self.projects.lock();
        if let Some(name) = &patch.name
            && projects.iter().any(|p| p.id != id && p.name == *name)
        {
            return Err(StoreError::Conflict(name.clone()));
        }
        Ok(projects.iter_mut().find(|p| p.id == id).map(|project| {
            patch.apply(project, now);
            project.clone()
        }))
    }
}

#[async_trait]
impl TokenStore for World {
    async fn by_hash(&self, _hash: TokenHash) -> Result<Option<StoredPrincipal>, StoreError> {
        Ok(None)
    }

    async fn get(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        self.check()?;
        Ok(self
            .tokens
            .lock()
            .iter()
            .find(|(t, _)| t.id == id)
            .map(|(t, _)| t.clone()))
    }

    async fn list(&self, filter: TokenFilter, page: Page) -> Result<Paged<Token>, StoreError> {
        self.check()?;
        let rows: Vec<Token> = self
            .tokens
            .lock()
            .iter()
            .rev()
            .map(|(token, _)| token.clone())
            .filter(|token| filter.project_id.is_none_or(|id| token.project_id == id))
            .filter(|token| {
                filter
                    .active_at
                    .is_none_or(|now| token.is_active && token.expires_at > now)
            })
            .collect();
        Ok(page_of(&rows, page))
    }

    async fn create(&self, token: &Token, hash: TokenHash) -> Result<(), StoreError> {
        self.check()?;
        self.tokens.lock().push((token.clone(), hash));
        Ok(())
    }

    async fn patch(
        &self,
        id: TokenId,
        patch: &TokenPatch,
        now: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        self.check()?;
        let mut tokens = self.tokens.lock();
        let Some((token, _)) = tokens.iter_mut().find(|(t, _)| t.id == id) else {
            return Ok(None);
        };
        patch.apply(token, now)?;
        Ok(Some(token.clone()))
    }

    async fn revoke_all(&self, project: ProjectId, now: Timestamp) -> Result<RevokeCounts, StoreError> {
        self.check()?;
        let mut counts = RevokeCounts::default();
        for (token, _) in self
            .tokens
            .lock()
            .iter_mut()
            .filter(|(t, _)| t.project_id == project)
        {
            counts.total_tokens += 1;
            if token.is_active {
                token.is_active = false;
                token.deactivated_at = Some(now);
                counts.revoked_count += 1;
            } else {
                counts.already_revoked_count += 1;
            }
        }
        Ok(counts)
    }

    async fn rotate(
        &self,
        id: TokenId,
        hash: TokenHash,
        obfuscated: &str,
        _old_valid_until: Timestamp,
    ) -> Result<Option<Token>, StoreError> {
        self.check()?;
        let mut tokens = self.tokens.lock();
        Ok(tokens.iter_mut().find(|(t, _)| t.id == id).map(|(token, kept)| {
            *kept = hash;
            obfuscated.clone_into(&mut token.obfuscated);
            token.clone()
        }))
    }
}

#[async_trait]
impl AuditStore for World {
    async fn append(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        self.check()?;
        self.events.lock().extend_from_slice(events);
        Ok(())
    }

    async fn get(&self, id: AuditId) -> Result<Option<AuditEvent>, StoreError> {
        self.check()?;
        Ok(self.events.lock().iter().find(|e| e.id == id).cloned())
    }

    async fn list(&self, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEvent>, StoreError> {
        self.check()?;
        let matches = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|w| w == found);
        let rows: Vec<AuditEvent> = self
            .events
            .lock()
            .iter()
            .rev()
            .filter(|e| matches(&filter.action, &e.action) && matches(&filter.outcome, e.outcome.as_str()))
            .filter(|e| filter.start.is_none_or(|start| e.timestamp >= start))
            .cloned()
            .collect();
        Ok(page_of(&rows, page))
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.check()?;
        let mut events = self.events.lock();
        let count = events.len();
        events.retain(|e| e.timestamp >= before);
        Ok((count - events.len()) as u64)
    }
}

#[async_trait]
impl LedgerStore for World {
    async fn append(&self, _: &[UsageRecord]) -> Result<(), StoreError> {
        self.check()
    }

    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        self.check()?;
        Ok(Vec::new())
    }

    async fn records(&self, _: &RecordFilter, page: Page) -> Result<Paged<UsageRecord>, StoreError> {
        self.check()?;
        Ok(page_of(&[], page))
    }

    async fn spent(&self, _: Vec<String>) -> Result<HashMap<String, NanoUsd>, StoreError> {
        self.check()?;
        Ok(HashMap::new())
    }

    async fn spending(&self, _: &str, _: i64) -> Result<Spending, StoreError> {
        self.check()?;
        Ok(Spending::default())
    }

    async fn forget_spend_before(&self, _: i64) -> Result<(), StoreError> {
        self.check()
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, StoreError> {
        self.check()?;
        Ok(0)
    }
}

#[async_trait]
impl Grants for World {
    async fn take(&self, _token: TokenId, _max_requests: u64) -> Result<GrantOutcome, StoreError> {
        Ok(GrantOutcome::Granted)
    }

    async fn give_back(&self, _token: TokenId) {}

    async fn forget(&self, token: TokenId) -> Result<(), StoreError> {
        self.forgotten.lock().insert(token);
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl ChangeListener for World {
    fn changed(&self, change: Changed) {
        self.changes.lock().push(change);
    }
}

#[async_trait]
impl UsageFlush for World {
    async fn flush(&self) {
        self.flushed.store(true, Ordering::Relaxed);
    }
}

impl AuditSink for World {
    fn offer(&self, event: AuditEvent) {
        self.events.lock().push(event);
    }
}

#[async_trait]
impl AuditTrail for World {
    async fn flush(&self) {}
}

#[async_trait]
impl ConfigView for World {
    fn show(&self) -> Value {
        json!({"generation": 1})
    }

    async fn reload(&self) -> ReloadAnswer {
        if self.refuse_reload.load(Ordering::Relaxed) {
            ReloadAnswer::Refused(vec!["conf/x.yaml:3:5: unknown key `modles`".to_owned()])
        } else {
            ReloadAnswer::Applied(json!({"generation": 2}))
        }
    }
}

impl ProviderView for World {
    fn list(&self) -> Vec<ProviderEntry> {
        let entry = |name: &str, dialect, key| ProviderEntry {
            name: name.to_owned(),
            dialect,
            base_url: format!("https://api.{name}.com"),
            default: name == "openai",
            key,
            health: ProviderHealth::Healthy,
            cooldowns: Vec::new(),
            in_flight: 0,
            waiting: 0,
            targets: Vec::new(),
            keys: Vec::new(),
        };
        vec![
            entry("openai", Dialect::OpenAi, KeyState::Configured),
            entry("anthropic", Dialect::Anthropic, KeyState::Missing),
        ]
    }

    fn default_provider(&self) -> String {
        "openai".to_owned()
    }

    fn has_configured_key(&self, name: &str) -> Option<bool> {
        match name {
            "openai" => Some(!self.default_without_key.load(Ordering::Relaxed)),
            "anthropic" => Some(false),
            _ => None,
        }
    }
}

impl ModelView for World {
    fn list(&self) -> Vec<ModelEntry> {
        vec![ModelEntry {
            name: "fast".to_owned(),
            context_window: None,
            max_output_tokens: None,
            strategy: "weighted".to_owned(),
            targets: vec![ModelTarget {
                provider: "openai".to_owned(),
                model: "gpt-4o-mini".to_owned(),
                weight: 1,
                priority: 0,
            }],
        }]
    }
}

#[async_trait]
impl CacheAdmin for World {
    async fn purge(&self, purge: Purge) -> PurgeOutcome {
        self.purges.lock().push(purge);
        PurgeOutcome::Deleted(3)
    }

    fn stats(&self) -> CacheStats {
        CacheStats {
            enabled: !self.cache_off.load(Ordering::Relaxed),
            backend: "memory",
            ..CacheStats::default()
        }
    }
}

impl MetricsView for World {
    fn prometheus(&self) -> String {
        "llm_proxy_requests_total 1\n".to_owned()
    }

    fn json(&self) -> Value {
        json!({"request_count": 1})
    }
}

impl Readiness for World {
    fn state(&self) -> ReadyState {
        self.ready.lock().clone().unwrap_or(ReadyState::Ready)
    }
}

/// Waits until `condition` holds, at most five seconds.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the condition did not come true");
}
