-- Most requests have no name of their client's: theirs is the record's id, which has an index.
DROP INDEX usage_records_by_request;
CREATE INDEX usage_records_by_request ON usage_records (request_id) WHERE request_id <> record_id COLLATE "C";
