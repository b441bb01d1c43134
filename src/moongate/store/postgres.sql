-- Looks and small moves on PostgreSQL. The moves of money are functions of the database itself;
-- see migrations/postgres. Columns come in the order that mapping.py reads.

-- name: server
SELECT current_setting('server_encoding'), current_setting('transaction_read_only');

-- name: tables
-- How many tables are where ours are, or go.
SELECT count(*) FROM pg_class
WHERE relkind IN ('r', 'p') AND relnamespace = (
    SELECT oid FROM pg_namespace WHERE nspname = current_schema()
);

-- name: version
SELECT value::bigint FROM note WHERE name = 'schema';

-- name: version_set
INSERT INTO note (name, value) VALUES ('schema', $1)
ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value;

-- name: alone
-- Of several processes that start at once one migrates, and the others wait as long as it takes.
SET LOCAL lock_timeout = 0;
SET LOCAL statement_timeout = 0;
SELECT pg_advisory_xact_lock(hashtext('moongate'), hashtext('migrations'));

-- name: lacking
-- What this role may not do and must be able to.
SELECT string_agg(verb || ' on ' || name, ', ' ORDER BY name, verb)
FROM (VALUES
    ('account', 'SELECT INSERT UPDATE'),
    ('api_key', 'SELECT INSERT UPDATE'),
    ('budget', 'SELECT INSERT UPDATE DELETE'),
    ('entry', 'SELECT INSERT'),
    ('hold', 'SELECT INSERT UPDATE'),
    ('hold_leg', 'SELECT INSERT'),
    ('idem', 'SELECT INSERT DELETE'),
    ('invite', 'SELECT INSERT UPDATE DELETE'),
    ('note', 'SELECT INSERT UPDATE'),
    ('price', 'SELECT INSERT'),
    ('pulse', 'SELECT UPDATE'),
    ('rate', 'SELECT INSERT UPDATE DELETE'),
    ('rate_place', 'SELECT INSERT UPDATE DELETE'),
    ('replica', 'SELECT INSERT UPDATE DELETE'),
    ('secret', 'SELECT INSERT DELETE'),
    ('topup', 'SELECT INSERT'),
    ('usage', 'SELECT INSERT')
) AS need (name, verbs), unnest(string_to_array(verbs, ' ')) AS verb
WHERE NOT has_table_privilege(name, verb);

-- name: take_time
-- In a transaction that looks at many rows.
SET LOCAL statement_timeout = 0;

-- name: moves
SELECT moongate_moves($1::jsonb, $2::jsonb, $3::jsonb, $4);

-- name: renew
-- [{hold, input, cached, output, searches}]; locked in the order of ids, as everywhere.
WITH told AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS told (
        hold TEXT, input BIGINT, cached BIGINT, output BIGINT, searches BIGINT
    )
), ours AS (
    SELECT id FROM hold WHERE id IN (SELECT told.hold FROM told) AND state = 0
    ORDER BY id FOR NO KEY UPDATE
), renewed AS (
    UPDATE hold
    SET renewed_ms = greatest(renewed_ms, moongate_now()), run_input = told.input,
        run_cached = told.cached, run_output = told.output, run_searches = told.searches
    FROM ours JOIN told ON told.hold = ours.id
    WHERE hold.id = ours.id
    RETURNING 1
)
SELECT count(*) FROM renewed;

-- name: expire
SELECT moongate_expire($1, $2, $3);

-- name: credit
SELECT moongate_credit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: ping
UPDATE pulse SET beats = beats + 1;

-- name: bind
-- The update changes nothing; it makes the row that stands come back.
INSERT INTO note (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = note.value
RETURNING value;

-- name: heartbeat
WITH beat AS (
    INSERT INTO replica (owner, beat_ms) VALUES ($1, moongate_now())
    ON CONFLICT (owner) DO UPDATE SET beat_ms = EXCLUDED.beat_ms
    RETURNING owner, beat_ms
), gone AS (
    DELETE FROM replica WHERE beat_ms < moongate_now() - 86400000
)
SELECT 1 + count(*) FROM replica, beat
WHERE replica.owner <> beat.owner AND replica.beat_ms >= beat.beat_ms - 15000;

-- name: facts
SELECT current_setting('server_version'),
    (SELECT count(*) FROM replica WHERE beat_ms >= moongate_now() - 15000),
    moongate_now();

-- name: rates
SELECT moongate_rates($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: rates_forget
SELECT moongate_rates_forget();

-- name: account_insert
INSERT INTO account (
    id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency
)
VALUES ($1, $2, 0, 0, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING
RETURNING 1;

-- name: account
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain
FROM account WHERE id = $1;

-- name: accounts
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain
FROM account WHERE $1::text IS NULL OR kind = $1
ORDER BY created_ms, id;

-- name: account_quota
UPDATE account SET rpm = $2, tpm = $3, concurrency = $4 WHERE id = $1 RETURNING 1;

-- name: key_insert
SELECT moongate_key_insert($1::jsonb);

-- name: key_by_mac
SELECT api_key.id, api_key.account, api_key.name, api_key.mac, api_key.last4, api_key.created_ms,
    api_key.admin, api_key.models, api_key.policy, api_key.zero_retention, api_key.expires_ms,
    api_key.revoked_ms, api_key.project, api_key.rpm, api_key.tpm, api_key.concurrency,
    api_key.old_mac, api_key.old_until_ms, account.rpm, account.tpm, account.concurrency
FROM api_key JOIN account ON account.id = api_key.account
WHERE api_key.mac = $1 OR api_key.old_mac = $1;

-- name: keys
SELECT id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention,
    expires_ms, revoked_ms, project, rpm, tpm, concurrency, old_mac, old_until_ms
FROM api_key WHERE $1::text IS NULL OR account = $1
ORDER BY n;

-- name: key_revoke
UPDATE api_key SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL RETURNING 1;

-- name: key_rotate
UPDATE api_key SET mac = $2, last4 = $3, old_mac = mac, old_until_ms = $4
WHERE id = $1 AND revoked_ms IS NULL
RETURNING 1;

-- name: key_quota
UPDATE api_key SET rpm = $2, tpm = $3, concurrency = $4 WHERE id = $1 RETURNING 1;

-- name: budget_set
SELECT moongate_budget_set($1, $2, $3, $4, $5, $6, $7);

-- name: budget
SELECT id, account, scope, subject, per, cap_nanos, created_ms FROM budget WHERE id = $1;

-- name: budget_remove
SELECT moongate_budget_remove($1, $2, $3);

-- name: budgets
SELECT budget.id, budget.account, scope, subject, per, cap_nanos, budget.created_ms,
    coalesce(-account.posted_nanos, 0), coalesce(account.held_nanos, 0)
FROM budget
LEFT JOIN account ON account.id = budget.id || '/' || moongate_window(per, moongate_now())
WHERE $1::text IS NULL OR budget.account = $1
ORDER BY budget.created_ms, budget.id;

-- name: price_insert
INSERT INTO price (model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING version;

-- name: prices
SELECT version, model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms FROM price
ORDER BY version;

-- name: rotate_secret
SELECT moongate_rotate_secret($1, $2, $3);

-- name: invite_add
INSERT INTO invite (id, account, name, mac, created_ms, expires_ms, used_ms, key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: invites
SELECT id, account, name, mac, created_ms, expires_ms, used_ms, key FROM invite
WHERE $1::text IS NULL OR account = $1
ORDER BY created_ms, id;

-- name: invite_take
SELECT moongate_invite_take($1, $2::jsonb);

-- name: invite
SELECT id, account, name, mac, created_ms, expires_ms, used_ms, key FROM invite WHERE id = $1;

-- name: low_rearm
WITH risen AS (
    SELECT id FROM account
    WHERE kind = 'wallet' AND low_state <> 0 AND posted_nanos + credit_limit_nanos >= $1
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE account SET low_state = 0 FROM risen WHERE account.id = risen.id;

-- name: low_claim
WITH fallen AS (
    SELECT id FROM account
    WHERE kind = 'wallet' AND chain_no > 0 AND posted_nanos + credit_limit_nanos < $1
      AND (low_state = 0 OR low_state = 1 AND low_ms + 60000 <= moongate_now())
    ORDER BY id FOR NO KEY UPDATE
), claimed AS (
    UPDATE account SET low_state = 1, low_ms = moongate_now()
    FROM fallen WHERE account.id = fallen.id
    RETURNING account.*
)
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain
FROM claimed ORDER BY id;

-- name: low_told
WITH told AS (
    SELECT id FROM account WHERE id = ANY ($1) AND low_state <> 0 ORDER BY id FOR NO KEY UPDATE
)
UPDATE account SET low_state = 2 FROM told WHERE account.id = told.id;

-- name: forget
WITH idems AS (
    DELETE FROM idem WHERE (account, key_mac) IN (
        SELECT account, key_mac FROM idem WHERE expires_ms <= moongate_now() LIMIT $1
    )
    RETURNING 1
), invites AS (
    DELETE FROM invite WHERE id IN (
        SELECT id FROM invite WHERE expires_ms <= moongate_now()
        LIMIT greatest(0, $1 - (SELECT count(*) FROM idems))
    )
    RETURNING 1
)
SELECT (SELECT count(*) FROM idems) + (SELECT count(*) FROM invites);

-- name: open_holds
SELECT id, key, account, model, amount_nanos, price_version, owner, lease_s, created_ms,
    (SELECT jsonb_agg(leg.account ORDER BY leg.account)::text FROM hold_leg AS leg
     WHERE leg.hold = hold.id),
    slice_no, state, project, run_input, run_cached, run_output, run_searches
FROM hold WHERE resolved_ms IS NULL
ORDER BY created_ms, id;

-- name: usage
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage
WHERE ended_ms >= $1 AND ended_ms < $2
ORDER BY ended_ms, n;

-- name: usage_of_account
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage
WHERE account = $1 AND ended_ms >= $2 AND ended_ms < $3
ORDER BY ended_ms, n;

-- name: usage_sums
-- As core.sums.add_up adds up: the tokens of requests that were charged, all charges, all forgiven.
SELECT CASE WHEN $1 THEN ended_ms / 86400000 ELSE -1 END, account,
    CASE WHEN $2 THEN key ELSE '' END,
    model, price_version, count(*), count(*) FILTER (WHERE NOT billed),
    coalesce(sum(input) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(cache_read) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(output) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(searches) FILTER (WHERE billed), 0)::bigint,
    sum(charge_nanos)::bigint, sum(forgiven_nanos)::bigint
FROM (
    SELECT *, charge_nanos > 0 OR (
        outcome NOT IN ('upstream_error', 'gateway_error', 'refused', 'expired')
        AND forgiven_nanos = spoiled_nanos
    ) AS billed
    FROM usage
    WHERE ended_ms >= $3 AND ended_ms < $4
) AS rated
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5;

-- name: usage_sums_of_account
SELECT CASE WHEN $1 THEN ended_ms / 86400000 ELSE -1 END, account,
    CASE WHEN $2 THEN key ELSE '' END,
    model, price_version, count(*), count(*) FILTER (WHERE NOT billed),
    coalesce(sum(input) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(cache_read) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(output) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(searches) FILTER (WHERE billed), 0)::bigint,
    sum(charge_nanos)::bigint, sum(forgiven_nanos)::bigint
FROM (
    SELECT *, charge_nanos > 0 OR (
        outcome NOT IN ('upstream_error', 'gateway_error', 'refused', 'expired')
        AND forgiven_nanos = spoiled_nanos
    ) AS billed
    FROM usage
    WHERE account = $5 AND ended_ms >= $3 AND ended_ms < $4
) AS rated
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5;

-- name: last_used
-- One look at an index for each key, however many rows there are.
SELECT id, at_ms
FROM (
    SELECT id, (SELECT max(ended_ms) FROM usage WHERE usage.key = api_key.id) AS at_ms
    FROM api_key WHERE $1::text IS NULL OR account = $1
) AS key
WHERE at_ms IS NOT NULL;

-- name: usage_row
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage WHERE hold = $1;

-- name: entries
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE $1::text IS NULL OR account = $1
ORDER BY n;

-- name: entries_of_wallet
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE account = $1 AND chain_no IS NOT NULL
ORDER BY chain_no;

-- name: entries_of_tx
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE tx = $1 AND ($2::text IS NULL OR account = $2)
ORDER BY seq;

-- name: entry_sums
SELECT kind, sum(amount_nanos)::bigint FROM entry
WHERE account = $1 AND chain_no IS NOT NULL AND created_ms >= $2 AND created_ms < $3
GROUP BY kind;

-- name: credits
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE account = $1 AND kind IN ('topup', 'trial', 'refund')
  AND created_ms >= $2 AND created_ms < $3
ORDER BY n;

-- name: chains
-- Every wallet with its entries, in the order of its chain.
SELECT account.id, account.chain_no, account.chain,
    tx, seq, entry.account, amount_nanos, entry.kind, entry.created_ms, entry.chain_no, entry.chain
FROM account LEFT JOIN entry ON entry.account = account.id AND entry.chain_no IS NOT NULL
WHERE account.kind = 'wallet'
ORDER BY account.id, entry.chain_no;

-- name: drift
SELECT 'I1', 'accounts', 'posted sums to ' || sum(posted_nanos) FROM account
HAVING sum(posted_nanos) <> 0;

-- name: audit_1_tx
SELECT 'I1', tx, 'entries sum to ' || sum(amount_nanos) FROM entry
GROUP BY tx HAVING sum(amount_nanos) <> 0 LIMIT 100;

-- name: audit_2_posted
SELECT 'I2', account.id, 'posted ' || posted_nanos || ', entries ' || coalesce(total, 0)
FROM account
LEFT JOIN (SELECT account AS id, sum(amount_nanos) AS total FROM entry GROUP BY account) AS sums
    ON sums.id = account.id
WHERE posted_nanos <> coalesce(total, 0) LIMIT 100;

-- name: audit_3_held
SELECT 'I3', account.id, 'held ' || held_nanos || ', open legs ' || coalesce(total, 0)
FROM account
LEFT JOIN (
    SELECT hold_leg.account AS id, sum(hold.amount_nanos) AS total
    FROM hold JOIN hold_leg ON hold_leg.hold = hold.id
    WHERE hold.resolved_ms IS NULL
    GROUP BY hold_leg.account
) AS legs ON legs.id = account.id
WHERE held_nanos <> coalesce(total, 0) LIMIT 100;

-- name: audit_4_overdraft
SELECT 'I4', id, 'available ' || (posted_nanos - held_nanos + credit_limit_nanos) FROM account
WHERE kind = 'wallet' AND posted_nanos - held_nanos + credit_limit_nanos < 0 LIMIT 100;

-- name: audit_5_posted_once
-- What an account paid for a hold is its charge, once; nothing else moved under that id.
SELECT 'I5', usage.hold, 'charge ' || charge_nanos || ', paid ' || -coalesce(sum(amount_nanos), 0)
FROM usage LEFT JOIN entry ON entry.tx = usage.hold AND entry.account = usage.account
GROUP BY usage.hold HAVING charge_nanos <> -coalesce(sum(amount_nanos), 0) LIMIT 100;

-- name: audit_5_strays
SELECT 'I5', tx, 'charged without a usage row' FROM entry
WHERE kind = 'charge' AND seq = 0
  AND NOT EXISTS (SELECT 1 FROM usage WHERE usage.hold = entry.tx) LIMIT 100;

-- name: audit_6_charge
SELECT 'I6', usage.hold, 'charge ' || charge_nanos || ', hold ' || amount_nanos
FROM usage JOIN hold ON hold.id = usage.hold
WHERE charge_nanos > CASE WHEN state IN (1, 3) THEN amount_nanos ELSE 0 END LIMIT 100;

-- name: audit_7_price
SELECT 'I7', hold, 'charge and forgiven ' || (charge_nanos + forgiven_nanos) || ', price ' ||
    (input * input_nanos + cache_read * cached_nanos + output * output_nanos
     + searches * search_nanos + spoiled_nanos)
FROM usage JOIN price ON price.version = usage.price_version
WHERE charge_nanos + forgiven_nanos <> input * input_nanos + cache_read * cached_nanos
    + output * output_nanos + searches * search_nanos + spoiled_nanos LIMIT 100;

-- name: audit_7_forgiven
SELECT 'I7', 'forgiven', 'posted ' || posted || ', usage ' || used
FROM (
    SELECT
        (SELECT coalesce(sum(posted_nanos), 0) FROM account WHERE kind = 'forgiven') AS posted,
        (SELECT coalesce(sum(forgiven_nanos), 0) FROM usage) AS used
) AS both_sides
WHERE posted <> used;

-- name: audit_8_without_usage
SELECT 'I8', id, 'resolved without a usage row' FROM hold
WHERE state <> 0 AND NOT EXISTS (SELECT 1 FROM usage WHERE usage.hold = hold.id) LIMIT 100;

-- name: audit_8_without_hold
SELECT 'I8', usage.hold, 'a usage row without a resolved hold of its account' FROM usage
LEFT JOIN hold ON hold.id = usage.hold
WHERE hold.id IS NULL OR state = 0 OR hold.account <> usage.account LIMIT 100;

-- name: audit_8_without_leg
SELECT 'I8', id, 'no leg on its own account' FROM hold
WHERE NOT EXISTS (
    SELECT 1 FROM hold_leg WHERE hold_leg.hold = hold.id AND hold_leg.account = hold.account
) LIMIT 100;

-- name: audit_9_chain
SELECT 'chain', account.id, 'entry ' || n || ' is outside the chain'
FROM entry JOIN account ON account.id = entry.account
WHERE account.kind = 'wallet' AND entry.chain_no IS NULL LIMIT 100;
