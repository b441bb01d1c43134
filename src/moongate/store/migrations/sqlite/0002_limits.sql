-- Budgets, rates, rolling holds, hash chains, idempotency, invitations. Between this script and the
-- next the wallets' entries get their chain.

-- Counters and limits of an account. A wallet's chain ends at (chain_no, chain). low_state: 0 not
-- low, 1 claimed at low_ms by whoever tells its owner, 2 told.
ALTER TABLE account ADD COLUMN rpm INTEGER CHECK (rpm >= 0);
ALTER TABLE account ADD COLUMN tpm INTEGER CHECK (tpm >= 0);
ALTER TABLE account ADD COLUMN concurrency INTEGER CHECK (concurrency >= 0);
ALTER TABLE account ADD COLUMN chain_no INTEGER NOT NULL DEFAULT 0 CHECK (chain_no >= 0);
ALTER TABLE account ADD COLUMN chain BLOB NOT NULL DEFAULT x'' CHECK (length(chain) IN (0, 32));
ALTER TABLE account ADD COLUMN low_state INTEGER NOT NULL DEFAULT 0
    CHECK (low_state IN (0, 1, 2));
ALTER TABLE account ADD COLUMN low_ms INTEGER NOT NULL DEFAULT 0;

INSERT INTO account (id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms)
VALUES ('contra', 'contra', 0, 0, 0, 0),
       ('forgiven', 'forgiven', 0, 0, 0, 0);

ALTER TABLE api_key ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN rpm INTEGER CHECK (rpm >= 0);
ALTER TABLE api_key ADD COLUMN tpm INTEGER CHECK (tpm >= 0);
ALTER TABLE api_key ADD COLUMN concurrency INTEGER CHECK (concurrency >= 0);
ALTER TABLE api_key ADD COLUMN old_mac BLOB;
ALTER TABLE api_key ADD COLUMN old_until_ms INTEGER;

CREATE UNIQUE INDEX key_old_mac ON api_key (old_mac) WHERE old_mac IS NOT NULL;

-- Caps. What a window has spent is its account's, called ID/WINDOW.
CREATE TABLE budget (
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    account TEXT NOT NULL REFERENCES account (id),
    scope TEXT NOT NULL CHECK (scope IN ('key', 'project', 'account')),
    subject TEXT NOT NULL,
    per TEXT NOT NULL CHECK (per IN ('day', 'week', 'month', 'life')),
    cap_nanos INTEGER NOT NULL CHECK (cap_nanos BETWEEN 0 AND 4000000000000000000),
    created_ms INTEGER NOT NULL,
    UNIQUE (scope, subject, per)
) STRICT;

-- What the request had used when its lease was last renewed.
ALTER TABLE hold ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE hold ADD COLUMN run_input INTEGER NOT NULL DEFAULT 0 CHECK (run_input >= 0);
ALTER TABLE hold ADD COLUMN run_cached INTEGER NOT NULL DEFAULT 0 CHECK (run_cached >= 0);
ALTER TABLE hold ADD COLUMN run_output INTEGER NOT NULL DEFAULT 0 CHECK (run_output >= 0);
ALTER TABLE hold ADD COLUMN run_searches INTEGER NOT NULL DEFAULT 0 CHECK (run_searches >= 0);

-- Entries anew, for their kinds and their chain; the guards follow in the next script.
DROP TRIGGER entry_stays;
DROP TRIGGER entry_kept;
ALTER TABLE entry RENAME TO entry_before;
CREATE TABLE entry (
    n INTEGER PRIMARY KEY,
    tx TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    account TEXT NOT NULL REFERENCES account (id),
    amount_nanos INTEGER NOT NULL CHECK (amount_nanos <> 0),
    kind TEXT NOT NULL CHECK (kind IN (
        'topup', 'trial', 'refund', 'charge', 'budget', 'forgiven'
    )),
    created_ms INTEGER NOT NULL,
    chain_no INTEGER CHECK (chain_no >= 1),
    chain BLOB CHECK (length(chain) = 32),
    UNIQUE (tx, seq),
    CHECK ((chain_no IS NULL) = (chain IS NULL))
) STRICT;
INSERT INTO entry (n, tx, seq, account, amount_nanos, kind, created_ms)
SELECT n, tx, seq, account, amount_nanos, kind, created_ms FROM entry_before ORDER BY n;
DROP TABLE entry_before;

-- What was forgiven stood in usage alone.
INSERT INTO entry (tx, seq, account, amount_nanos, kind, created_ms)
SELECT hold, 100, 'forgiven', forgiven_nanos, 'forgiven', ended_ms FROM usage
WHERE forgiven_nanos > 0
UNION ALL
SELECT hold, 101, 'contra', -forgiven_nanos, 'forgiven', ended_ms FROM usage
WHERE forgiven_nanos > 0;
UPDATE account SET posted_nanos = (SELECT coalesce(sum(forgiven_nanos), 0) FROM usage)
WHERE id = 'forgiven';
UPDATE account SET posted_nanos = -(SELECT coalesce(sum(forgiven_nanos), 0) FROM usage)
WHERE id = 'contra';

-- A wallet's chain has one entry at each place.
CREATE UNIQUE INDEX entry_chain ON entry (account, chain_no) WHERE chain_no IS NOT NULL;
-- What came into an account, without going through its charges.
CREATE INDEX entry_credit ON entry (account) WHERE kind IN ('topup', 'trial', 'refund');
-- When a key was last used.
CREATE INDEX usage_key ON usage (key, ended_ms);

-- A client's Idempotency-Key, as MACs under a secret of the table below.
CREATE TABLE idem (
    account TEXT NOT NULL REFERENCES account (id),
    key_mac BLOB NOT NULL,
    body_mac BLOB NOT NULL,
    hold TEXT NOT NULL REFERENCES hold (id),
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (account, key_mac)
) STRICT, WITHOUT ROWID;

CREATE INDEX idem_expires ON idem (expires_ms);

-- Where a credit came from; an event credits once.
CREATE TABLE topup (
    source TEXT NOT NULL,
    event TEXT NOT NULL,
    tx TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES account (id),
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    method TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (source, event)
) STRICT, WITHOUT ROWID;

-- One-time links that make a key; only a MAC of the code.
CREATE TABLE invite (
    id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (id),
    name TEXT NOT NULL,
    mac BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms INTEGER,
    key TEXT,
    CHECK ((used_ms IS NULL) = (key IS NULL))
) STRICT;

CREATE INDEX invite_expires ON invite (expires_ms);

-- Secrets that live for two periods and are then overwritten.
CREATE TABLE secret (
    purpose TEXT NOT NULL,
    bytes BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (purpose, created_ms)
) STRICT, WITHOUT ROWID;

-- What was decided once for this store.
CREATE TABLE note (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Processes that serve this store, by their last sign of life.
CREATE TABLE replica (
    owner TEXT NOT NULL PRIMARY KEY,
    beat_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
