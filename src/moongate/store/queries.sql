-- One named statement a move. Batches come as one JSON array (:rows), because a thread that shares
-- its interpreter with a busy event loop waits for it at every statement.

-- name: hold_reserve
-- The guard: a leg's account takes the sum of its batch only if it can pay it. [[account, nanos]]
UPDATE account
SET held_nanos = held_nanos + want.nanos
FROM (SELECT value ->> 0 AS id, value ->> 1 AS nanos FROM json_each(:rows)) AS want
WHERE account.id = want.id
  AND account.kind IN ('wallet', 'budget')
  AND account.posted_nanos - account.held_nanos + account.credit_limit_nanos >= want.nanos
RETURNING account.id;

-- name: hold_insert
INSERT INTO hold (
    id, key, account, model, amount_nanos, slice_no, price_version, owner, lease_s, created_ms,
    renewed_ms
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, value ->> 8, value ->> 9, value ->> 9
FROM json_each(:rows);

-- name: hold_legs
-- [[hold, account]]
INSERT INTO hold_leg (hold, account)
SELECT value ->> 0, value ->> 1 FROM json_each(:rows);

-- name: settle_claim
-- The compare-and-set: a hold leaves state 0 once. [[hold, state, at_ms]]
UPDATE hold
SET state = done.state, resolved_ms = done.at_ms
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS state, value ->> 2 AS at_ms FROM json_each(:rows)
) AS done
WHERE hold.id = done.id AND hold.state = 0
RETURNING hold.id;

-- name: settle_release
-- Every leg gets its hold back; the hold's own account pays the charge. [[hold, charge]]
UPDATE account
SET held_nanos = held_nanos - freed.held, posted_nanos = posted_nanos - freed.charged
FROM (
    SELECT
        hold_leg.account AS id,
        sum(hold.amount_nanos) AS held,
        sum(iif(hold_leg.account = hold.account, done.charge, 0)) AS charged
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS charge FROM json_each(:rows)) AS done
    CROSS JOIN hold ON hold.id = done.id
    CROSS JOIN hold_leg ON hold_leg.hold = hold.id
    GROUP BY hold_leg.account
) AS freed
WHERE account.id = freed.id;

-- name: post
UPDATE account SET posted_nanos = posted_nanos + :nanos WHERE id = :id;

-- name: entry_insert
-- [[tx, seq, account, nanos, kind, at_ms]]
INSERT INTO entry (tx, seq, account, amount_nanos, kind, created_ms)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
FROM json_each(:rows);

-- name: usage_insert
INSERT INTO usage (
    hold, key, account, model, upstream, outcome, input, cache_read, output, searches, reasoning,
    estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms, streamed, status,
    first_token_ms, duration_ms, upstream_prompt, upstream_completion, upstream_cached
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
    value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, value ->> 19,
    value ->> 20, value ->> 21, value ->> 22, value ->> 23
FROM json_each(:rows);

-- name: renew
UPDATE hold
SET renewed_ms = max(renewed_ms, :at_ms)
WHERE state = 0 AND id IN (SELECT value FROM json_each(:ids));

-- name: lapsed
-- Open holds whose lease and grace ran out.
SELECT id, key, account, model, price_version, created_ms FROM hold
WHERE state = 0 AND renewed_ms + (lease_s + :grace_s) * 1000 <= :at_ms
ORDER BY created_ms, id;

-- name: orphans
-- Open holds of owners that are gone.
SELECT id, key, account, model, price_version, created_ms FROM hold
WHERE state = 0 AND owner <> :owner
ORDER BY created_ms, id;

-- name: credit_wallet
UPDATE account
SET posted_nanos = posted_nanos + :nanos
WHERE id = :id AND kind = 'wallet'
  AND posted_nanos - held_nanos + credit_limit_nanos + :nanos >= 0
  AND posted_nanos + :nanos <= 4000000000000000000;

-- name: tx_known
SELECT 1 FROM entry WHERE tx = :tx LIMIT 1;

-- name: account_insert
INSERT INTO account (id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms)
VALUES (:id, :kind, 0, 0, :credit_limit_nanos, :created_ms)
ON CONFLICT (id) DO NOTHING;

-- name: account
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms FROM account
WHERE id = :id;

-- name: accounts
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms FROM account
ORDER BY created_ms, id;

-- name: key_insert
INSERT INTO api_key (
    id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention, expires_ms,
    revoked_ms
)
VALUES (
    :id, :account, :name, :mac, :last4, :created_ms, :admin, :models, :policy, :zero_retention,
    :expires_ms, :revoked_ms
);

-- name: key_by_mac
SELECT id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention,
    expires_ms, revoked_ms
FROM api_key WHERE mac = :mac;

-- name: keys
SELECT id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention,
    expires_ms, revoked_ms
FROM api_key WHERE :account IS NULL OR account = :account
ORDER BY rowid;

-- name: key_revoke
UPDATE api_key SET revoked_ms = :at_ms WHERE id = :id AND revoked_ms IS NULL;

-- name: price_insert
INSERT INTO price (model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms)
VALUES (:model, :input, :cached, :output, :search, :from_ms);

-- name: prices
SELECT version, model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms FROM price
ORDER BY version;

-- name: open_holds
SELECT id, key, account, model, amount_nanos, price_version, owner, lease_s, created_ms,
    (SELECT json_group_array(leg.account ORDER BY leg.account) FROM hold_leg AS leg
     WHERE leg.hold = hold.id),
    slice_no, state
FROM hold WHERE state = 0
ORDER BY created_ms, id;

-- name: usage
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached
FROM usage
WHERE ended_ms >= :from_ms AND ended_ms < :to_ms
ORDER BY ended_ms, rowid;

-- name: usage_of_account
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached
FROM usage
WHERE account = :account AND ended_ms >= :from_ms AND ended_ms < :to_ms
ORDER BY ended_ms, rowid;

-- name: usage_row
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached
FROM usage WHERE hold = :hold;

-- name: entries
SELECT tx, seq, account, amount_nanos, kind, created_ms FROM entry
WHERE :account IS NULL OR account = :account
ORDER BY n;

-- name: ping
UPDATE pulse SET beats = beats + 1;

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
    WHERE hold.state = 0
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
WHERE kind = 'charge' AND seq = 0 AND tx NOT IN (SELECT hold FROM usage) LIMIT 100;

-- name: audit_6_charge
SELECT 'I6', usage.hold, 'charge ' || charge_nanos || ', hold ' || amount_nanos
FROM usage JOIN hold ON hold.id = usage.hold
WHERE charge_nanos > iif(state = 1, amount_nanos, 0) LIMIT 100;

-- name: audit_7_price
SELECT 'I7', hold, 'charge and forgiven ' || (charge_nanos + forgiven_nanos) || ', price ' ||
    (input * input_nanos + cache_read * cached_nanos + output * output_nanos
     + searches * search_nanos)
FROM usage JOIN price ON price.version = usage.price_version
WHERE charge_nanos + forgiven_nanos <> input * input_nanos + cache_read * cached_nanos
    + output * output_nanos + searches * search_nanos LIMIT 100;

-- name: audit_8_without_usage
SELECT 'I8', id, 'resolved without a usage row' FROM hold
WHERE state <> 0 AND id NOT IN (SELECT hold FROM usage) LIMIT 100;

-- name: audit_8_without_hold
SELECT 'I8', usage.hold, 'a usage row without a resolved hold of its account' FROM usage
LEFT JOIN hold ON hold.id = usage.hold
WHERE hold.id IS NULL OR state = 0 OR hold.account <> usage.account LIMIT 100;

-- name: audit_8_without_leg
SELECT 'I8', id, 'no leg on its own account' FROM hold
WHERE NOT EXISTS (
    SELECT 1 FROM hold_leg WHERE hold_leg.hold = hold.id AND hold_leg.account = hold.account
) LIMIT 100;
