CREATE TABLE projects (
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT NOT NULL UNIQUE,
    is_active       INTEGER NOT NULL,
    deactivated_at  INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    allowed_models  TEXT NOT NULL,
    rpm             INTEGER,
    tpm             INTEGER,
    concurrency     INTEGER,
    budget_nano_usd INTEGER,
    budget_period   TEXT,
    metadata        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE project_provider_keys (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    provider   TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    obfuscated TEXT NOT NULL,
    PRIMARY KEY (project_id, provider)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id                TEXT PRIMARY KEY NOT NULL,
    project_id        TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name              TEXT,
    obfuscated        TEXT NOT NULL,
    expires_at        INTEGER NOT NULL,
    is_active         INTEGER NOT NULL,
    deactivated_at    INTEGER,
    created_at        INTEGER NOT NULL,
    last_used_at      INTEGER,
    request_count     INTEGER NOT NULL DEFAULT 0,
    cache_hit_count   INTEGER NOT NULL DEFAULT 0,
    max_requests      INTEGER,
    allowed_models    TEXT NOT NULL,
    allowed_endpoints TEXT NOT NULL,
    allowed_ips       TEXT NOT NULL,
    rpm               INTEGER,
    tpm               INTEGER,
    concurrency       INTEGER,
    budget_nano_usd   INTEGER,
    budget_period     TEXT,
    metadata          TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_project ON tokens (project_id);
CREATE INDEX tokens_by_creation ON tokens (created_at DESC, id);

-- The SHA-256 of every secret a token has or had; rotation adds one and ends the older ones.
CREATE TABLE token_secrets (
    hash       BLOB PRIMARY KEY NOT NULL,
    token_id   TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX token_secrets_by_token ON token_secrets (token_id);
