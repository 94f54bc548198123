-- What of a request is counted by the picture, the second or the character: JSON, NULL for most.
ALTER TABLE usage_records ADD COLUMN media TEXT;
