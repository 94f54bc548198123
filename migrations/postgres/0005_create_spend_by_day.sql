-- What a token, a project or the whole installation (`installation`) spent on a day (days since 1970), for budgets of a
-- day, a week or a month. Days that no such budget looks at any more are deleted.
CREATE TABLE spend_days (
    day      BIGINT NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    nano_usd BIGINT NOT NULL,
    PRIMARY KEY (day, subject)
);

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, token_id, SUM(cost_nano_usd)::BIGINT FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24, token_id;

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, project_id, SUM(cost_nano_usd)::BIGINT FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24, project_id;

INSERT INTO spend_days (day, subject, nano_usd)
SELECT hour / 24, 'installation', SUM(cost_nano_usd)::BIGINT FROM usage_hours
WHERE cost_nano_usd <> 0 GROUP BY hour / 24;

INSERT INTO spend (subject, nano_usd)
SELECT 'installation', SUM(nano_usd)::BIGINT FROM spend_days WHERE subject = 'installation' HAVING COUNT(*) > 0;

-- Sums by the day without the token, so that a month of many tokens is added up in little time.
CREATE TABLE usage_days (
    day                BIGINT NOT NULL,
    project_id         TEXT NOT NULL,
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
    PRIMARY KEY (day, project_id, model, provider)
);

INSERT INTO usage_days
SELECT hour / 24, project_id, model, provider, SUM(requests)::BIGINT, SUM(prompt_tokens)::BIGINT, SUM(completion_tokens)::BIGINT,
    SUM(cache_read_tokens)::BIGINT, SUM(cache_write_tokens)::BIGINT, SUM(reasoning_tokens)::BIGINT, SUM(cost_nano_usd)::BIGINT, SUM(estimated)::BIGINT, SUM(cut)::BIGINT
FROM usage_hours GROUP BY hour / 24, project_id, model, provider;

-- Nothing looks hours up by these.
DROP INDEX usage_hours_by_token;
DROP INDEX usage_hours_by_project;
