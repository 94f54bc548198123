-- Records come in the order of time: ascending indexes are appended to, descending ones are written in front and split at
-- each page. Most requests have no name of their client's: theirs is the record's id, which has an index.
DROP INDEX usage_records_by_time;
DROP INDEX usage_records_by_project;
DROP INDEX usage_records_by_token;
DROP INDEX usage_records_by_request;
CREATE INDEX usage_records_by_time ON usage_records (finished_at, record_id);
CREATE INDEX usage_records_by_project ON usage_records (project_id, finished_at, record_id);
CREATE INDEX usage_records_by_token ON usage_records (token_id, finished_at, record_id);
CREATE INDEX usage_records_by_request ON usage_records (request_id) WHERE request_id <> record_id;
