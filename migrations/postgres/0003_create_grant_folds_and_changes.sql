-- Moves with every change of a token or project, in the same transaction: instances that cannot hear
-- notifications poll it, the others see in it that they missed one. (Grants are written to `tokens` directly.)
CREATE TABLE change_counter (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value BIGINT NOT NULL
);

INSERT INTO change_counter (id, value) VALUES (1, 0);
