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
    renewed_ms, project
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, value ->> 8, value ->> 9, value ->> 9, value ->> 10
FROM json_each(:rows);

-- name: hold_legs
-- [[hold, account]]
INSERT INTO hold_leg (hold, account)
SELECT value ->> 0, value ->> 1 FROM json_each(:rows);

-- name: holds_known
-- Which of these ids are holds already.
SELECT id FROM hold WHERE id IN (SELECT value FROM json_each(:ids));

-- name: holds
SELECT id, key, account, model, amount_nanos, price_version, owner, lease_s, created_ms,
    (SELECT json_group_array(leg.account ORDER BY leg.account) FROM hold_leg AS leg
     WHERE leg.hold = hold.id),
    slice_no, state, project, run_input, run_cached, run_output, run_searches
FROM hold WHERE id IN (SELECT value FROM json_each(:ids));

-- name: legs_room
-- What each leg can still pay; no row for what no hold can count against.
SELECT id, posted_nanos - held_nanos + credit_limit_nanos FROM account
WHERE kind IN ('wallet', 'budget') AND id IN (SELECT value FROM json_each(:ids));

-- name: hold_extend
-- A slice is granted once: the number before it must stand. [[id, nanos, before, after, at_ms]]
UPDATE hold
SET amount_nanos = amount_nanos + more.nanos,
    slice_no = more.after,
    renewed_ms = max(renewed_ms, more.at_ms)
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS nanos, value ->> 2 AS before, value ->> 3 AS after,
        value ->> 4 AS at_ms
    FROM json_each(:rows)
) AS more
WHERE hold.id = more.id AND hold.state = 0 AND hold.slice_no = more.before
RETURNING hold.id;

-- name: budget_any
SELECT 1 FROM budget LIMIT 1;

-- name: budgets_on
-- The budgets that hang on these. [[scope, subject]]
SELECT scope, subject, id, per, cap_nanos
FROM (SELECT value ->> 0 AS want_scope, value ->> 1 AS want_subject FROM json_each(:rows))
CROSS JOIN budget ON scope = want_scope AND subject = want_subject;

-- name: windows_make
-- [[id, cap, created_ms]]
INSERT INTO account (id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms)
SELECT value ->> 0, 'budget', 0, 0, value ->> 1, value ->> 2 FROM json_each(:rows)
WHERE true
ON CONFLICT (id) DO NOTHING;

-- name: idem_used
-- What stands under these keys, by the number of who asks. [[n, account, key_mac, body_mac]]
SELECT value ->> 0, idem.account, idem.key_mac, idem.body_mac = unhex(value ->> 3), idem.hold,
    hold.state, idem.expires_ms
FROM json_each(:rows)
CROSS JOIN idem ON idem.account = value ->> 1 AND idem.key_mac = unhex(value ->> 2)
CROSS JOIN hold ON hold.id = idem.hold
ORDER BY json_each.key;

-- name: idem_free
-- [[account, key_mac]]
DELETE FROM idem WHERE (account, key_mac) IN (
    SELECT value ->> 0, unhex(value ->> 1) FROM json_each(:rows)
);

-- name: idem_insert
-- [[account, key_mac, body_mac, hold, expires_ms]]
INSERT INTO idem (account, key_mac, body_mac, hold, expires_ms)
SELECT value ->> 0, unhex(value ->> 1), unhex(value ->> 2), value ->> 3, value ->> 4
FROM json_each(:rows);

-- name: settle_claim
-- The compare-and-set: a hold leaves state 0 once. [[hold, state, at_ms]]
UPDATE hold
SET state = done.state, resolved_ms = done.at_ms
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS state, value ->> 2 AS at_ms FROM json_each(:rows)
) AS done
WHERE hold.id = done.id AND hold.state = 0
RETURNING hold.id, hold.amount_nanos,
    (SELECT json_group_array(leg.account ORDER BY leg.account) FROM hold_leg AS leg
     WHERE leg.hold = hold.id);

-- name: heads
-- Where the chains of these accounts end.
SELECT id, kind, chain_no, chain FROM account
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: account_move
-- What an account gets back of its holds and what is posted to it. [[id, freed, posted, no, chain]]
UPDATE account
SET held_nanos = held_nanos - moved.freed,
    posted_nanos = posted_nanos + moved.posted,
    chain_no = moved.no,
    chain = unhex(moved.chain)
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS freed, value ->> 2 AS posted, value ->> 3 AS no,
        value ->> 4 AS chain
    FROM json_each(:rows)
) AS moved
WHERE account.id = moved.id;

-- name: entry_insert
-- [[tx, seq, account, nanos, kind, at_ms, chain_no, chain]]
INSERT INTO entry (tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    unhex(value ->> 7)
FROM json_each(:rows);

-- name: usage_insert
INSERT INTO usage (
    hold, key, account, model, upstream, outcome, input, cache_read, output, searches, reasoning,
    estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms, streamed, status,
    first_token_ms, duration_ms, upstream_prompt, upstream_completion, upstream_cached, attempts,
    spoiled_nanos
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
    value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, value ->> 19,
    value ->> 20, value ->> 21, value ->> 22, value ->> 23, value ->> 24, value ->> 25
FROM json_each(:rows);

-- name: renew
-- [[hold, input, cached, output, searches]]
UPDATE hold
SET renewed_ms = max(renewed_ms, :at_ms),
    run_input = used.input,
    run_cached = used.cached,
    run_output = used.output,
    run_searches = used.searches
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS input, value ->> 2 AS cached, value ->> 3 AS output,
        value ->> 4 AS searches
    FROM json_each(:rows)
) AS used
WHERE hold.id = used.id AND hold.state = 0;

-- name: lapsed
-- Open holds whose lease and grace ran out, with their price.
SELECT hold.id, hold.key, hold.account, hold.model, amount_nanos, price_version, owner, lease_s,
    created_ms, '[]', slice_no, state, project, run_input, run_cached, run_output, run_searches,
    input_nanos, cached_nanos, output_nanos, search_nanos
FROM hold JOIN price ON price.version = hold.price_version
WHERE state = 0 AND renewed_ms + (lease_s + :grace_s) * 1000 <= :at_ms
ORDER BY created_ms, hold.id;

-- name: orphans
-- Open holds of owners that are gone, with their price.
SELECT hold.id, hold.key, hold.account, hold.model, amount_nanos, price_version, owner, lease_s,
    created_ms, '[]', slice_no, state, project, run_input, run_cached, run_output, run_searches,
    input_nanos, cached_nanos, output_nanos, search_nanos
FROM hold JOIN price ON price.version = hold.price_version
WHERE state = 0 AND owner <> :owner
ORDER BY created_ms, hold.id;

-- name: credit_known
SELECT 1 WHERE EXISTS (SELECT 1 FROM entry WHERE tx = :tx)
    OR EXISTS (SELECT 1 FROM topup WHERE source = :source AND event = :event);

-- name: topup_insert
INSERT INTO topup (source, event, tx, account, amount, currency, method, created_ms)
VALUES (:source, :event, :tx, :account, :amount, :currency, :method, :at_ms);

-- name: account_insert
INSERT INTO account (
    id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency
)
VALUES (:id, :kind, 0, 0, :credit_limit_nanos, :created_ms, :rpm, :tpm, :concurrency)
ON CONFLICT (id) DO NOTHING;

-- name: account
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain FROM account
WHERE id = :id;

-- name: accounts
SELECT id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain FROM account
WHERE :kind IS NULL OR kind = :kind
ORDER BY created_ms, id;

-- name: account_quota
UPDATE account SET rpm = :rpm, tpm = :tpm, concurrency = :concurrency WHERE id = :id;

-- name: key_insert
INSERT INTO api_key (
    id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention, expires_ms,
    revoked_ms, project, rpm, tpm, concurrency, old_mac, old_until_ms
)
VALUES (
    :id, :account, :name, :mac, :last4, :created_ms, :admin, :models, :policy, :zero_retention,
    :expires_ms, :revoked_ms, :project, :rpm, :tpm, :concurrency, :old_mac, :old_until_ms
);

-- name: key_by_mac
-- With the rates of its account.
SELECT api_key.id, api_key.account, name, mac, last4, api_key.created_ms, admin, models, policy,
    zero_retention, expires_ms, revoked_ms, project, api_key.rpm, api_key.tpm,
    api_key.concurrency, old_mac, old_until_ms,
    account.rpm, account.tpm, account.concurrency
FROM api_key JOIN account ON account.id = api_key.account
WHERE mac = :mac OR old_mac = :mac;

-- name: keys
SELECT api_key.id, api_key.account, name, mac, last4, api_key.created_ms, admin, models, policy,
    zero_retention, expires_ms, revoked_ms, project, api_key.rpm, api_key.tpm,
    api_key.concurrency, old_mac, old_until_ms
FROM api_key WHERE :account IS NULL OR api_key.account = :account
ORDER BY api_key.rowid;

-- name: key_revoke
UPDATE api_key SET revoked_ms = :at_ms WHERE id = :id AND revoked_ms IS NULL;

-- name: key_rotate
UPDATE api_key SET old_mac = mac, old_until_ms = :old_until_ms, mac = :mac, last4 = :last4
WHERE id = :id AND revoked_ms IS NULL;

-- name: key_quota
UPDATE api_key SET rpm = :rpm, tpm = :tpm, concurrency = :concurrency WHERE id = :id;

-- name: budget_set
INSERT INTO budget (id, account, scope, subject, per, cap_nanos, created_ms)
VALUES (:id, :account, :scope, :subject, :per, :cap_nanos, :created_ms)
ON CONFLICT (scope, subject, per) DO UPDATE SET cap_nanos = excluded.cap_nanos
RETURNING id, account, scope, subject, per, cap_nanos, created_ms;

-- name: windows_cap
-- The accounts from window :first to the last that :budget can have.
UPDATE account SET credit_limit_nanos = :cap_nanos
WHERE kind = 'budget' AND id >= :first AND id < :budget || '0';

-- name: budget_remove
DELETE FROM budget WHERE scope = :scope AND subject = :subject AND per = :per RETURNING id;

-- name: budgets
-- With the account of the window that :windows names for each length.
SELECT budget.id, budget.account, scope, subject, per, cap_nanos, budget.created_ms,
    -coalesce(posted_nanos, 0), coalesce(held_nanos, 0)
FROM budget LEFT JOIN account ON account.id = budget.id || '/' || (:windows ->> per)
WHERE :account IS NULL OR budget.account = :account
ORDER BY budget.created_ms, budget.id;

-- name: price_insert
INSERT INTO price (model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms)
VALUES (:model, :input, :cached, :output, :search, :from_ms);

-- name: prices
SELECT version, model, input_nanos, cached_nanos, output_nanos, search_nanos, from_ms FROM price
ORDER BY version;

-- name: secret_insert
INSERT INTO secret (purpose, bytes, created_ms) VALUES (:purpose, :bytes, :at_ms);

-- name: secrets
SELECT bytes, created_ms FROM secret WHERE purpose = :purpose ORDER BY created_ms DESC;

-- name: secret_destroy
DELETE FROM secret WHERE purpose = :purpose AND created_ms < :before_ms;

-- name: invite_insert
INSERT INTO invite (id, account, name, mac, created_ms, expires_ms, used_ms, key)
VALUES (:id, :account, :name, :mac, :created_ms, :expires_ms, :used_ms, :key);

-- name: invites
SELECT id, account, name, mac, created_ms, expires_ms, used_ms, key FROM invite
WHERE :account IS NULL OR account = :account
ORDER BY rowid;

-- name: invite_take
UPDATE invite SET used_ms = :at_ms, key = :key
WHERE mac = :mac AND used_ms IS NULL AND expires_ms > :at_ms
RETURNING id, account, name, mac, created_ms, expires_ms, used_ms, key;

-- name: low_rearm
UPDATE account SET low_state = 0
WHERE low_state <> 0 AND posted_nanos + credit_limit_nanos >= :below_nanos;

-- name: low_claim
-- A claim of more than :patience_ms ago was not kept.
UPDATE account SET low_state = 1, low_ms = :at_ms
WHERE kind = 'wallet' AND chain_no > 0 AND posted_nanos + credit_limit_nanos < :below_nanos
  AND (low_state = 0 OR low_state = 1 AND low_ms + :patience_ms <= :at_ms)
RETURNING id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms, rpm, tpm, concurrency,
    chain_no, chain;

-- name: low_told
UPDATE account SET low_state = 2
WHERE low_state = 1 AND id IN (SELECT value FROM json_each(:ids));

-- name: forget_idem
DELETE FROM idem WHERE (account, key_mac) IN (
    SELECT account, key_mac FROM idem WHERE expires_ms <= :at_ms ORDER BY expires_ms LIMIT :most
);

-- name: forget_invites
DELETE FROM invite WHERE id IN (
    SELECT id FROM invite WHERE expires_ms <= :at_ms ORDER BY expires_ms LIMIT :most
);

-- name: note_insert
INSERT INTO note (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: note
SELECT value FROM note WHERE name = :name;

-- name: beat
INSERT INTO replica (owner, beat_ms) VALUES (:owner, :at_ms)
ON CONFLICT (owner) DO UPDATE SET beat_ms = excluded.beat_ms;

-- name: beats_forget
DELETE FROM replica WHERE beat_ms < :since_ms;

-- name: beats
SELECT count(*) FROM replica WHERE beat_ms >= :since_ms;

-- name: open_holds
SELECT id, key, account, model, amount_nanos, price_version, owner, lease_s, created_ms,
    (SELECT json_group_array(leg.account ORDER BY leg.account) FROM hold_leg AS leg
     WHERE leg.hold = hold.id),
    slice_no, state, project, run_input, run_cached, run_output, run_searches
FROM hold WHERE state = 0
ORDER BY created_ms, id;

-- name: usage
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage
WHERE ended_ms >= :from_ms AND ended_ms < :to_ms
ORDER BY ended_ms, rowid;

-- name: usage_of_account
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage
WHERE account = :account AND ended_ms >= :from_ms AND ended_ms < :to_ms
ORDER BY ended_ms, rowid;

-- name: usage_sums
-- As core.sums.add_up adds up: the tokens of requests that were charged, all charges, all forgiven.
SELECT iif(:days, ended_ms / 86400000, -1), account, iif(:keys, key, ''), model, price_version,
    count(*), sum(NOT billed), sum(iif(billed, input, 0)), sum(iif(billed, cache_read, 0)),
    sum(iif(billed, output, 0)), sum(iif(billed, searches, 0)), sum(charge_nanos),
    sum(forgiven_nanos)
FROM (
    SELECT *, charge_nanos > 0 OR (
        outcome NOT IN ('upstream_error', 'gateway_error', 'refused', 'expired')
        AND forgiven_nanos = spoiled_nanos
    ) AS billed
    FROM usage
    WHERE ended_ms >= :from_ms AND ended_ms < :to_ms
)
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5;

-- name: usage_sums_of_account
SELECT iif(:days, ended_ms / 86400000, -1), account, iif(:keys, key, ''), model, price_version,
    count(*), sum(NOT billed), sum(iif(billed, input, 0)), sum(iif(billed, cache_read, 0)),
    sum(iif(billed, output, 0)), sum(iif(billed, searches, 0)), sum(charge_nanos),
    sum(forgiven_nanos)
FROM (
    SELECT *, charge_nanos > 0 OR (
        outcome NOT IN ('upstream_error', 'gateway_error', 'refused', 'expired')
        AND forgiven_nanos = spoiled_nanos
    ) AS billed
    FROM usage
    WHERE account = :account AND ended_ms >= :from_ms AND ended_ms < :to_ms
)
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5;

-- name: last_used
-- One look at an index for each key, however many rows there are.
SELECT id, at_ms
FROM (
    SELECT id, (SELECT max(ended_ms) FROM usage WHERE usage.key = api_key.id) AS at_ms
    FROM api_key WHERE :account IS NULL OR account = :account
)
WHERE at_ms IS NOT NULL;

-- name: usage_row
SELECT hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
    reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
    streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
    upstream_cached, attempts, spoiled_nanos
FROM usage WHERE hold = :hold;

-- name: entries
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE :account IS NULL OR account = :account
ORDER BY n;

-- name: entries_of_tx
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE tx = :tx AND (:account IS NULL OR account = :account)
ORDER BY n;

-- name: entries_of_wallet
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE account = :account AND chain_no IS NOT NULL
ORDER BY chain_no;

-- name: entry_sums
SELECT kind, sum(amount_nanos) FROM entry
WHERE account = :account AND chain_no IS NOT NULL
  AND created_ms >= :from_ms AND created_ms < :to_ms
GROUP BY kind;

-- name: credits
SELECT tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain FROM entry
WHERE account = :account AND kind IN ('topup', 'trial', 'refund')
  AND created_ms >= :from_ms AND created_ms < :to_ms
ORDER BY n;

-- name: ping
UPDATE pulse SET beats = beats + 1;

-- name: drift
-- I1 over all accounts, in two halves: a sum of all might leave the 64 bits.
SELECT 'I1', 'accounts', 'posted sums to ' || billions || ' * 10^9 + ' || rest
FROM (
    SELECT sum(posted_nanos / 1000000000) AS billions, sum(posted_nanos % 1000000000) AS rest
    FROM account
)
WHERE rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000);

-- name: chains
-- Every wallet's chain, in its order.
SELECT account.id, account.chain_no, account.chain,
    tx, seq, account, amount_nanos, entry.kind, entry.created_ms, entry.chain_no, entry.chain
FROM account
LEFT JOIN entry ON entry.account = account.id AND entry.chain_no IS NOT NULL
WHERE account.kind = 'wallet'
ORDER BY account.id, entry.chain_no;

-- name: chain_set
-- For the migration alone. [[n, chain_no, chain]]
UPDATE entry SET chain_no = link.no, chain = unhex(link.chain)
FROM (
    SELECT value ->> 0 AS n, value ->> 1 AS no, value ->> 2 AS chain FROM json_each(:rows)
) AS link
WHERE entry.n = link.n;

-- name: unchained
-- For the migration alone: entries of wallets that have no link yet.
SELECT n, tx, seq, entry.account, amount_nanos, entry.kind, entry.created_ms
FROM entry JOIN account ON account.id = entry.account
WHERE account.kind = 'wallet' AND n > :after
ORDER BY n LIMIT 1000;

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
WHERE charge_nanos > iif(state IN (1, 3), amount_nanos, 0) LIMIT 100;

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
)
WHERE posted <> used;

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

-- name: audit_9_chain
SELECT 'chain', account.id, 'entry ' || n || ' is outside the chain'
FROM entry JOIN account ON account.id = entry.account
WHERE account.kind = 'wallet' AND entry.chain_no IS NULL LIMIT 100;
