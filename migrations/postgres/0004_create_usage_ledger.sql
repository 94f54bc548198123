-- One row for each client request that reached a provider. Times are microseconds since 1970, money billionths of a dollar.
CREATE TABLE usage_records (
    record_id             TEXT COLLATE "C" PRIMARY KEY,
    request_id            TEXT NOT NULL,
    project_id            TEXT NOT NULL,
    token_id              TEXT NOT NULL,
    endpoint              TEXT NOT NULL,
    model                 TEXT NOT NULL,
    provider              TEXT NOT NULL,
    served_model          TEXT,
    status                BIGINT NOT NULL,
    prompt_tokens         BIGINT NOT NULL,
    completion_tokens     BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_tokens    BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    cost_nano_usd         BIGINT NOT NULL,
    estimated             BOOLEAN NOT NULL,
    cut                   BOOLEAN NOT NULL,
    received_at           BIGINT NOT NULL,
    finished_at           BIGINT NOT NULL,
    duration_us           BIGINT NOT NULL,
    first_byte_us         BIGINT,
    attempts              TEXT NOT NULL
);

CREATE INDEX usage_records_by_time ON usage_records (finished_at DESC, record_id DESC);
CREATE INDEX usage_records_by_project ON usage_records (project_id, finished_at DESC);
CREATE INDEX usage_records_by_token ON usage_records (token_id, finished_at DESC);
CREATE INDEX usage_records_by_request ON usage_records (request_id);

-- Their sums by the hour (hours since 1970), written in the same transaction; they outlive the records.
CREATE TABLE usage_hours (
    hour               BIGINT NOT NULL,
    project_id         TEXT NOT NULL,
    token_id           TEXT NOT NULL,
    model              TEXT NOT NULL,
    provider           TEXT NOT NULL,
    requests           BIGINT NOT NULL,
    prompt_tokens      BIGINT NOT NULL,
    completion_tokens  BIGINT NOT NULL,
    cache_read_tokens  BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens   BIGINT NOT NULL,
    cost_nano_usd      BIGINT NOT NULL,
    estimated          BIGINT NOT NULL,
    cut                BIGINT NOT NULL,
    PRIMARY KEY (hour, project_id, token_id, model, provider)
);

CREATE INDEX usage_hours_by_token ON usage_hours (token_id, hour);
CREATE INDEX usage_hours_by_project ON usage_hours (project_id, hour);

-- What a token or a project has spent in all.
CREATE TABLE spend (
    subject  TEXT COLLATE "C" PRIMARY KEY,
    nano_usd BIGINT NOT NULL
);
