-- One row for each client request that reached a provider. Times are microseconds since 1970, money billionths of a dollar.
CREATE TABLE usage_records (
    record_id             TEXT PRIMARY KEY NOT NULL,
    request_id            TEXT NOT NULL,
    project_id            TEXT NOT NULL,
    token_id              TEXT NOT NULL,
    endpoint              TEXT NOT NULL,
    model                 TEXT NOT NULL,
    provider              TEXT NOT NULL,
    served_model          TEXT,
    status                INTEGER NOT NULL,
    prompt_tokens         INTEGER NOT NULL,
    completion_tokens     INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cache_write_tokens    INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    reasoning_tokens      INTEGER NOT NULL,
    cost_nano_usd         INTEGER NOT NULL,
    estimated             INTEGER NOT NULL,
    cut                   INTEGER NOT NULL,
    received_at           INTEGER NOT NULL,
    finished_at           INTEGER NOT NULL,
    duration_us           INTEGER NOT NULL,
    first_byte_us         INTEGER,
    attempts              TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_records_by_time ON usage_records (finished_at DESC, record_id DESC);
CREATE INDEX usage_records_by_project ON usage_records (project_id, finished_at DESC);
CREATE INDEX usage_records_by_token ON usage_records (token_id, finished_at DESC);
CREATE INDEX usage_records_by_request ON usage_records (request_id);

-- Their sums by the hour (hours since 1970), written in the same transaction; they outlive the records.
CREATE TABLE usage_hours (
    hour               INTEGER NOT NULL,
    project_id         TEXT NOT NULL,
    token_id           TEXT NOT NULL,
    model              TEXT NOT NULL,
    provider           TEXT NOT NULL,
    requests           INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cache_read_tokens  INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,
    cost_nano_usd      INTEGER NOT NULL,
    estimated          INTEGER NOT NULL,
    cut                INTEGER NOT NULL,
    PRIMARY KEY (hour, project_id, token_id, model, provider)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_hours_by_token ON usage_hours (token_id, hour);
CREATE INDEX usage_hours_by_project ON usage_hours (project_id, hour);

-- What a token or a project has spent in all.
CREATE TABLE spend (
    subject  TEXT PRIMARY KEY NOT NULL,
    nano_usd INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
