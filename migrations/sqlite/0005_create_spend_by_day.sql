-- What a token, a project or the whole installation (`installation`) spent on a day (days since 1970), for budgets of a
-- day, a week or a month. Days that no such budget looks at any more are deleted.
CREATE TABLE spend_days (
    day      INTEGER NOT NULL,
    subject  TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,
    PRIMARY KEY (day, subject)
) STRICT, WITHOUT ROWID;

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, token_id, SUM(cost_nano_usd) FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24, token_id;

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, project_id, SUM(cost_nano_usd) FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24, project_id;

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, 'installation', SUM(cost_nano_usd) FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24;

INSERT INTO spend (subject, nano_usd)
SELECT 'installation', SUM(nano_usd) FROM spend_days WHERE subject = 'installation' HAVING COUNT(*) > 0;

-- Sums by the day without the token, so that a month of many tokens is added up in little time.
CREATE TABLE usage_days (
    day                INTEGER NOT NULL,
    project_id         TEXT NOT NULL,
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
    PRIMARY KEY (day, project_id, model, provider)
) STRICT, WITHOUT ROWID;

INSERT INTO usage_days
SELECT hour / 24, project_id, model, provider, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens),
    SUM(cache_read_tokens), SUM(cache_write_tokens), SUM(reasoning_tokens), SUM(cost_nano_usd), SUM(estimated), SUM(cut)
FROM usage_hours GROUP BY hour / 24, project_id, model, provider;

-- Nothing looks hours up by these.
DROP INDEX usage_hours_by_token;
DROP INDEX usage_hours_by_project;
