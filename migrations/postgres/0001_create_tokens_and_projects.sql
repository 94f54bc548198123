CREATE TABLE projects (
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT NOT NULL UNIQUE,
    is_active       BOOLEAN NOT NULL,
    deactivated_at  BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    allowed_models  TEXT NOT NULL,
    rpm             BIGINT,
    tpm             BIGINT,
    concurrency     BIGINT,
    budget_nano_usd BIGINT,
    budget_period   TEXT,
    metadata        TEXT NOT NULL
);

CREATE TABLE project_provider_keys (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    provider   TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    obfuscated TEXT NOT NULL,
    PRIMARY KEY (project_id, provider)
);

CREATE TABLE tokens (
    id                TEXT PRIMARY KEY NOT NULL,
    project_id        TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name              TEXT,
    obfuscated        TEXT NOT NULL,
    expires_at        BIGINT NOT NULL,
    is_active         BOOLEAN NOT NULL,
    deactivated_at    BIGINT,
    created_at        BIGINT NOT NULL,
    last_used_at      BIGINT,
    request_count     BIGINT NOT NULL DEFAULT 0,
    cache_hit_count   BIGINT NOT NULL DEFAULT 0,
    max_requests      BIGINT,
    allowed_models    TEXT NOT NULL,
    allowed_endpoints TEXT NOT NULL,
    allowed_ips       TEXT NOT NULL,
    rpm               BIGINT,
    tpm               BIGINT,
    concurrency       BIGINT,
    budget_nano_usd   BIGINT,
    budget_period     TEXT,
    metadata          TEXT NOT NULL
);

CREATE INDEX tokens_by_project ON tokens (project_id);
CREATE INDEX tokens_by_creation ON tokens (created_at DESC, id);

-- The SHA-256 of every secret a token has or had; rotation adds one and ends the older ones.
CREATE TABLE token_secrets (
    hash       BYTEA PRIMARY KEY NOT NULL,
    token_id   TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    expires_at BIGINT
);

CREATE INDEX token_secrets_by_token ON token_secrets (token_id);
