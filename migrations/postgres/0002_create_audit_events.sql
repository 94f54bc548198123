CREATE TABLE audit_events (
    id             TEXT PRIMARY KEY NOT NULL,
    timestamp      BIGINT NOT NULL,
    action         TEXT NOT NULL,
    actor          TEXT NOT NULL,
    outcome        TEXT NOT NULL CHECK (outcome IN ('success', 'failure', 'denied', 'error')),
    project_id     TEXT,
    token_id       TEXT,
    request_id     TEXT,
    correlation_id TEXT,
    client_ip      TEXT,
    method         TEXT,
    path           TEXT,
    user_agent     TEXT,
    reason         TEXT,
    metadata       TEXT NOT NULL
);

CREATE INDEX audit_events_by_timestamp ON audit_events (timestamp DESC, id DESC);
CREATE INDEX audit_events_by_action ON audit_events (action, timestamp DESC);
CREATE INDEX audit_events_by_project ON audit_events (project_id, timestamp DESC);
CREATE INDEX audit_events_by_client_ip ON audit_events (client_ip, timestamp DESC);
CREATE INDEX audit_events_by_request_id ON audit_events (request_id);
CREATE INDEX audit_events_by_outcome ON audit_events (outcome, timestamp DESC);
