-- Accounts, keys, prices, holds and what became of them. Money is integer nano-dollars, times are
-- milliseconds since the epoch. Amounts stay within 4 * 10^18, so that no sum of three leaves the
-- 64 bits of an integer (SQLite would go on in floating point).

CREATE TABLE account (
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    kind TEXT NOT NULL CHECK (kind IN (
        'wallet', 'budget', 'contra', 'revenue', 'cash', 'promo', 'forgiven', 'suspense'
    )),
    posted_nanos INTEGER NOT NULL
        CHECK (posted_nanos BETWEEN -4000000000000000000 AND 4000000000000000000),
    held_nanos INTEGER NOT NULL CHECK (held_nanos BETWEEN 0 AND 4000000000000000000),
    credit_limit_nanos INTEGER NOT NULL
        CHECK (credit_limit_nanos BETWEEN 0 AND 4000000000000000000),
    created_ms INTEGER NOT NULL,
    CONSTRAINT no_overdraft
        CHECK (kind <> 'wallet' OR posted_nanos - held_nanos + credit_limit_nanos >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO account (id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms)
VALUES ('cash', 'cash', 0, 0, 0, 0),
       ('promo', 'promo', 0, 0, 0, 0),
       ('revenue', 'revenue', 0, 0, 0, 0);

-- A key without its secret: only a MAC under a pepper that lies elsewhere.
CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (id),
    name TEXT NOT NULL,
    mac BLOB NOT NULL UNIQUE,
    last4 TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    admin INTEGER NOT NULL CHECK (admin IN (0, 1)),
    models TEXT NOT NULL,
    policy TEXT NOT NULL CHECK (policy IN ('standard', 'strict', 'lenient')),
    zero_retention INTEGER NOT NULL CHECK (zero_retention IN (0, 1)),
    expires_ms INTEGER,
    revoked_ms INTEGER
) STRICT;

-- Dated prices: a change is a new row.
CREATE TABLE price (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    input_nanos INTEGER NOT NULL CHECK (input_nanos >= 0),
    cached_nanos INTEGER NOT NULL CHECK (cached_nanos >= 0),
    output_nanos INTEGER NOT NULL CHECK (output_nanos >= 0),
    search_nanos INTEGER NOT NULL CHECK (search_nanos >= 0),
    from_ms INTEGER NOT NULL
) STRICT;

-- Money set aside. States: 0 open, 1 settled, 2 void, 3 expired.
CREATE TABLE hold (
    id TEXT NOT NULL PRIMARY KEY,
    key TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES account (id),
    model TEXT NOT NULL,
    amount_nanos INTEGER NOT NULL CHECK (amount_nanos >= 0),
    slice_no INTEGER NOT NULL CHECK (slice_no >= 0),
    state INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2, 3)),
    price_version INTEGER NOT NULL REFERENCES price (version),
    owner TEXT NOT NULL,
    lease_s INTEGER NOT NULL CHECK (lease_s >= 0),
    created_ms INTEGER NOT NULL,
    renewed_ms INTEGER NOT NULL,
    resolved_ms INTEGER CHECK ((state = 0) = (resolved_ms IS NULL))
) STRICT;

CREATE INDEX hold_open ON hold (renewed_ms) WHERE state = 0;

-- The accounts that a hold counts against, each with the hold's whole amount.
CREATE TABLE hold_leg (
    hold TEXT NOT NULL REFERENCES hold (id),
    account TEXT NOT NULL REFERENCES account (id),
    PRIMARY KEY (hold, account)
) STRICT, WITHOUT ROWID;

-- Movements; the entries of one tx sum to zero. The tx of a charge is its hold's id.
CREATE TABLE entry (
    n INTEGER PRIMARY KEY,
    tx TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    account TEXT NOT NULL REFERENCES account (id),
    amount_nanos INTEGER NOT NULL CHECK (amount_nanos <> 0),
    kind TEXT NOT NULL CHECK (kind IN ('topup', 'trial', 'charge')),
    created_ms INTEGER NOT NULL,
    UNIQUE (tx, seq)
) STRICT;

-- One row for each resolved hold.
CREATE TABLE usage (
    hold TEXT NOT NULL PRIMARY KEY REFERENCES hold (id),
    key TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES account (id),
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN (
        'done', 'client_left', 'credit_stop', 'upstream_error', 'gateway_error', 'refused',
        'expired'
    )),
    input INTEGER NOT NULL CHECK (input >= 0),
    cache_read INTEGER NOT NULL CHECK (cache_read >= 0),
    output INTEGER NOT NULL CHECK (output >= 0),
    searches INTEGER NOT NULL CHECK (searches >= 0),
    reasoning INTEGER,
    estimated INTEGER NOT NULL CHECK (estimated IN (0, 1)),
    price_version INTEGER NOT NULL REFERENCES price (version),
    charge_nanos INTEGER NOT NULL CHECK (charge_nanos >= 0),
    forgiven_nanos INTEGER NOT NULL CHECK (forgiven_nanos >= 0),
    created_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    streamed INTEGER NOT NULL CHECK (streamed IN (0, 1)),
    status INTEGER NOT NULL,
    first_token_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    upstream_prompt INTEGER,
    upstream_completion INTEGER,
    upstream_cached INTEGER
) STRICT;

CREATE INDEX usage_ended ON usage (ended_ms);
CREATE INDEX usage_account ON usage (account, ended_ms);

-- A commit that means nothing but proves that commits work.
CREATE TABLE pulse (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    beats INTEGER NOT NULL
) STRICT;

INSERT INTO pulse (one, beats) VALUES (1, 0);

-- What the database itself refuses, whoever asks.
CREATE TRIGGER entry_stays BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entry_kept BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER price_stays BEFORE UPDATE ON price
BEGIN SELECT RAISE(ABORT, 'prices are append-only'); END;
CREATE TRIGGER price_kept BEFORE DELETE ON price
BEGIN SELECT RAISE(ABORT, 'prices are append-only'); END;
CREATE TRIGGER usage_stays BEFORE UPDATE ON usage
BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;
CREATE TRIGGER usage_kept BEFORE DELETE ON usage
BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;
CREATE TRIGGER hold_kept BEFORE DELETE ON hold
BEGIN SELECT RAISE(ABORT, 'holds are kept'); END;
CREATE TRIGGER hold_resolved_once BEFORE UPDATE ON hold WHEN OLD.state <> 0
BEGIN SELECT RAISE(ABORT, 'a hold is resolved once'); END;
CREATE TRIGGER usage_fits_hold BEFORE INSERT ON usage WHEN NOT EXISTS (
    SELECT 1 FROM hold
    WHERE hold.id = NEW.hold
      AND hold.state <> 0
      AND hold.account = NEW.account
      AND hold.price_version = NEW.price_version
      AND NEW.charge_nanos <= iif(hold.state = 1, hold.amount_nanos, 0)
)
BEGIN SELECT RAISE(ABORT, 'usage does not fit its hold'); END;
