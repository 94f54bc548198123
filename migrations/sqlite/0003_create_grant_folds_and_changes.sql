-- How far `grants.log` is folded into `tokens.request_count`: records up to this sequence are counted there.
CREATE TABLE grant_folds (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL
) STRICT;

INSERT INTO grant_folds (id, sequence) VALUES (1, 0);

-- Written by the health check: a store that cannot be written to is not healthy.
CREATE TABLE heartbeat (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    timestamp INTEGER NOT NULL
) STRICT;

INSERT INTO heartbeat (id, timestamp) VALUES (1, 0);
