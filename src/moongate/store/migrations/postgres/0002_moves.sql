-- The moves of money as functions: one call, one round trip, one commit, however many moves.
-- The order of locks is the same everywhere, so that nobody waits in a circle: budgets, then
-- accounts by id, then holds by id. Under these locks every figure stands still; the guards stand
-- in the statements all the same.

CREATE TYPE moongate_wanted AS (
    id TEXT,
    key TEXT,
    account TEXT,
    model TEXT,
    amount_nanos BIGINT,
    slice_no BIGINT,
    price_version BIGINT,
    owner TEXT,
    lease_s BIGINT,
    project TEXT,
    legs TEXT[],
    floor_nanos BIGINT,
    unit_nanos BIGINT,
    key_macs BYTEA[],
    body_macs BYTEA[],
    expires_ms BIGINT
);

CREATE TYPE moongate_more AS (
    hold TEXT,
    slice_no BIGINT,
    wanted_nanos BIGINT,
    unit_nanos BIGINT
);

CREATE TYPE moongate_end AS (
    state INTEGER,
    late BOOLEAN,
    hold TEXT,
    key TEXT,
    account TEXT,
    model TEXT,
    upstream TEXT,
    outcome TEXT,
    input BIGINT,
    cache_read BIGINT,
    output BIGINT,
    searches BIGINT,
    reasoning BIGINT,
    estimated BOOLEAN,
    price_version BIGINT,
    charge_nanos BIGINT,
    forgiven_nanos BIGINT,
    ended_ms BIGINT,
    streamed BOOLEAN,
    status BIGINT,
    first_token_ms BIGINT,
    duration_ms BIGINT,
    upstream_prompt BIGINT,
    upstream_completion BIGINT,
    upstream_cached BIGINT
);

CREATE TYPE moongate_line AS (
    tx TEXT,
    seq BIGINT,
    account TEXT,
    amount_nanos BIGINT,
    kind TEXT,
    created_ms BIGINT
);

-- This database's clock, in milliseconds since the epoch.
CREATE FUNCTION moongate_now() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- The day on which the window of a moment begins; "life" for all time.
CREATE FUNCTION moongate_window(per TEXT, at_ms BIGINT) RETURNS TEXT LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN per = 'life' THEN 'life'
        ELSE to_char(date_trunc(per, to_timestamp(at_ms / 1000) AT TIME ZONE 'UTC'), 'YYYY-MM-DD')
    END
$$;

-- One link of a wallet's hash chain behind another, or behind the account's last, or behind zeros.
CREATE FUNCTION moongate_link(before BYTEA, head BYTEA, line TEXT) RETURNS BYTEA
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN sha256(coalesce(
        before,
        nullif(head, ''),
        '\x0000000000000000000000000000000000000000000000000000000000000000'
    ) || convert_to(line, 'UTF8'));
END $$;

CREATE AGGREGATE moongate_chain (BYTEA, TEXT) (SFUNC = moongate_link, STYPE = BYTEA);

-- A hold as the outside sees it.
CREATE FUNCTION moongate_shown(it hold) RETURNS JSONB LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_array(
        it.id, it.key, it.account, it.model, it.amount_nanos, it.price_version, it.owner,
        it.lease_s, it.created_ms,
        (SELECT jsonb_agg(leg.account ORDER BY leg.account)::text FROM hold_leg AS leg
         WHERE leg.hold = it.id),
        it.slice_no, it.state, it.project,
        it.run_input, it.run_cached, it.run_output, it.run_searches
    )
$$;

-- Write entries, with their links where they are a wallet's, and bring the accounts along; the
-- legs of the holds in freed get their amounts back in the same stroke.
CREATE FUNCTION moongate_post(lines moongate_line[], freed TEXT[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH numbered AS (
        SELECT line.*, account.kind = 'wallet' AS chained, account.chain AS head,
            account.chain_no + row_number() OVER (
                PARTITION BY line.account ORDER BY line.ordinality
            ) AS no
        FROM unnest(lines) WITH ORDINALITY AS line
        JOIN account ON account.id = line.account
    ), linked AS (
        SELECT numbered.*, moongate_chain(
            head,
            concat_ws(E'\n', tx, seq, numbered.account, amount_nanos, kind, created_ms, no)
        ) FILTER (WHERE chained) OVER (PARTITION BY numbered.account ORDER BY no) AS link
        FROM numbered
    ), booked AS (
        INSERT INTO entry (tx, seq, account, amount_nanos, kind, created_ms, chain_no, chain)
        SELECT tx, seq, linked.account, amount_nanos, kind, created_ms,
            CASE WHEN chained THEN no END, link
        FROM linked ORDER BY ordinality
        RETURNING entry.account, amount_nanos, chain_no, chain
    ), change AS (
        SELECT booked.account, sum(amount_nanos) AS posted, 0 AS freed, max(chain_no) AS no,
            (array_agg(chain ORDER BY chain_no DESC NULLS LAST))[1] AS head
        FROM booked GROUP BY booked.account
        UNION ALL
        SELECT leg.account, 0, sum(hold.amount_nanos), NULL, NULL
        FROM unnest(freed) AS one (id)
        JOIN hold ON hold.id = one.id
        JOIN hold_leg AS leg ON leg.hold = hold.id
        GROUP BY leg.account
    ), total AS (
        SELECT change.account AS id, sum(posted) AS posted, sum(change.freed) AS freed,
            max(no) AS no,
            (array_agg(head) FILTER (WHERE head IS NOT NULL))[1] AS head
        FROM change GROUP BY change.account
    )
    UPDATE account
    SET posted_nanos = posted_nanos + total.posted,
        held_nanos = held_nanos - total.freed,
        chain_no = coalesce(total.no, account.chain_no),
        chain = coalesce(total.head, account.chain)
    FROM total
    WHERE account.id = total.id;
END $$;

-- Resolve holds that are still open, each with its usage row and its entries. Returns their ids.
CREATE FUNCTION moongate_settle(ends moongate_end[], shard TEXT, at_ms BIGINT) RETURNS TEXT[]
LANGUAGE plpgsql AS $$
DECLARE
    won TEXT[];
BEGIN
    -- The compare-and-set: a hold leaves state 0 once.
    WITH claimed AS (
        UPDATE hold
        SET state = done.state,
            resolved_ms = CASE WHEN done.late THEN done.ended_ms ELSE at_ms END
        FROM unnest(ends) AS done
        WHERE hold.id = done.hold AND hold.state = 0
        RETURNING hold.id
    )
    SELECT coalesce(array_agg(id), '{}') INTO won FROM claimed;
    IF won = '{}' THEN
        RETURN won;
    END IF;

    INSERT INTO usage (
        hold, key, account, model, upstream, outcome, input, cache_read, output, searches,
        reasoning, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,
        streamed, status, first_token_ms, duration_ms, upstream_prompt, upstream_completion,
        upstream_cached
    )
    SELECT
        done.hold, done.key, done.account, done.model, done.upstream, done.outcome, done.input,
        done.cache_read, done.output, done.searches, done.reasoning, done.estimated,
        done.price_version, done.charge_nanos, done.forgiven_nanos, hold.created_ms,
        CASE WHEN done.late THEN done.ended_ms ELSE at_ms END,
        done.streamed, done.status, done.first_token_ms, done.duration_ms, done.upstream_prompt,
        done.upstream_completion, done.upstream_cached
    FROM unnest(ends) AS done
    JOIN hold ON hold.id = done.hold
    WHERE done.hold = ANY (won);

    PERFORM moongate_post(ARRAY(
        WITH done AS (
            SELECT usage.hold, usage.account, charge_nanos AS charge, forgiven_nanos AS forgiven,
                ended_ms
            FROM unnest(won) AS one (id) JOIN usage ON usage.hold = one.id
        ), cap AS (
            SELECT done.hold, leg.account, charge, ended_ms,
                2 * row_number() OVER (PARTITION BY done.hold ORDER BY leg.account) AS seq
            FROM done
            JOIN hold_leg AS leg ON leg.hold = done.hold
            JOIN account ON account.id = leg.account
            WHERE charge > 0 AND account.kind = 'budget' AND leg.account <> done.account
        )
        SELECT ROW (line.*)::moongate_line FROM (
            SELECT hold AS tx, 0 AS seq, account, -charge, 'charge', ended_ms
            FROM done WHERE charge > 0
            UNION ALL
            SELECT hold, 1, 'revenue/' || shard, charge, 'charge', ended_ms
            FROM done WHERE charge > 0
            UNION ALL
            SELECT hold, seq, account, -charge, 'budget', ended_ms FROM cap
            UNION ALL
            SELECT hold, seq + 1, 'contra/' || shard, charge, 'budget', ended_ms FROM cap
            UNION ALL
            SELECT hold, 100, 'forgiven/' || shard, forgiven, 'forgiven', ended_ms
            FROM done WHERE forgiven > 0
            UNION ALL
            SELECT hold, 101, 'contra/' || shard, -forgiven, 'forgiven', ended_ms
            FROM done WHERE forgiven > 0
        ) AS line ORDER BY line.tx, line.seq
    ), won);
    RETURN won;
END $$;

-- Set money aside for every row at once. Raises MG001 where that is not plain sailing: a leg that
-- is short, an Idempotency-Key that was used; and a unique violation where a hold is there already.
CREATE FUNCTION moongate_hold_all(wanted moongate_wanted[], at_ms BIGINT) RETURNS JSONB[]
LANGUAGE plpgsql AS $$
DECLARE
    leg_count BIGINT;
    paid BIGINT;
BEGIN
    IF EXISTS (
        SELECT 1 FROM unnest(wanted) AS want
        JOIN idem ON idem.account = want.account AND idem.key_mac = ANY (want.key_macs)
    ) THEN
        RAISE EXCEPTION SQLSTATE 'MG001';
    END IF;
    SELECT count(DISTINCT leg) INTO leg_count
    FROM unnest(wanted) AS want, unnest(want.legs) AS leg;
    -- The guard: a leg takes the sum of its batch only if it can pay it.
    UPDATE account
    SET held_nanos = held_nanos + need.nanos
    FROM (
        SELECT leg.id, sum(want.amount_nanos) AS nanos
        FROM unnest(wanted) AS want, unnest(want.legs) AS leg (id) GROUP BY leg.id
    ) AS need
    WHERE account.id = need.id
      AND account.kind IN ('wallet', 'budget')
      AND account.posted_nanos - account.held_nanos + account.credit_limit_nanos >= need.nanos;
    GET DIAGNOSTICS paid = ROW_COUNT;
    IF paid < leg_count THEN
        RAISE EXCEPTION SQLSTATE 'MG001';
    END IF;
    INSERT INTO hold (
        id, key, account, model, amount_nanos, slice_no, price_version, owner, lease_s,
        created_ms, renewed_ms, project
    )
    SELECT id, key, account, model, amount_nanos, slice_no, price_version, owner, lease_s,
        at_ms, at_ms, project
    FROM unnest(wanted);
    INSERT INTO hold_leg (hold, account)
    SELECT want.id, leg FROM unnest(wanted) AS want, unnest(want.legs) AS leg;
    INSERT INTO idem (account, key_mac, body_mac, hold, expires_ms)
    SELECT want.account, mark.key_mac, mark.body_mac, want.id, want.expires_ms
    FROM unnest(wanted) AS want,
        unnest(want.key_macs, want.body_macs) AS mark (key_mac, body_mac);
    RETURN ARRAY(
        SELECT jsonb_build_object('made', jsonb_build_array(amount_nanos, at_ms, to_jsonb(want.legs)))
        FROM unnest(wanted) WITH ORDINALITY AS want ORDER BY want.ordinality
    );
END $$;

-- Set money aside for one row, or say why not.
CREATE FUNCTION moongate_hold_one(want moongate_wanted, at_ms BIGINT) RETURNS JSONB
LANGUAGE plpgsql AS $$
DECLARE
    known hold;
    used RECORD;
    payers BIGINT;
    free BIGINT;
BEGIN
    SELECT * INTO known FROM hold WHERE id = want.id;
    IF FOUND THEN
        IF known.key = want.key AND known.account = want.account THEN
            RETURN jsonb_build_object('stands', moongate_shown(known));
        END IF;
        RAISE EXCEPTION 'the hold is another''s';
    END IF;
    FOR used IN
        SELECT idem.key_mac, idem.hold, idem.expires_ms, hold.state,
            idem.body_mac = mark.body_mac AS same
        FROM unnest(want.key_macs, want.body_macs) AS mark (key_mac, body_mac)
        JOIN idem ON idem.account = want.account AND idem.key_mac = mark.key_mac
        JOIN hold ON hold.id = idem.hold
    LOOP
        IF used.state IN (2, 3) OR used.expires_ms <= at_ms THEN
            DELETE FROM idem WHERE account = want.account AND key_mac = used.key_mac;
        ELSE
            RETURN jsonb_build_object(
                'why', CASE WHEN NOT used.same THEN 'other' WHEN used.state = 0 THEN 'running'
                    ELSE 'completed' END,
                'hold', used.hold
            );
        END IF;
    END LOOP;
    SELECT count(*), min(posted_nanos - held_nanos + credit_limit_nanos) INTO payers, free
    FROM account WHERE id = ANY (want.legs) AND kind IN ('wallet', 'budget');
    IF payers < cardinality(want.legs) THEN
        RETURN jsonb_build_object('why', 'short', 'hold', '');
    END IF;
    IF free < want.amount_nanos THEN
        IF want.floor_nanos IS NULL OR free < want.floor_nanos THEN
            RETURN jsonb_build_object('why', 'short', 'hold', '');
        END IF;
        want.amount_nanos := free - (free - want.floor_nanos) % greatest(want.unit_nanos, 1);
    END IF;
    RETURN (moongate_hold_all(ARRAY[want], at_ms))[1];
END $$;

-- Set more aside for open holds, all of them at once. Raises MG001 where that cannot be.
CREATE FUNCTION moongate_extend_all(more moongate_more[], at_ms BIGINT) RETURNS JSONB[]
LANGUAGE plpgsql AS $$
DECLARE
    grown BIGINT;
    leg_count BIGINT;
    paid BIGINT;
BEGIN
    -- A repeat, or one that is out of its turn, finds another number and grows nothing.
    UPDATE hold
    SET amount_nanos = amount_nanos + ask.wanted_nanos,
        slice_no = ask.slice_no,
        renewed_ms = greatest(renewed_ms, at_ms)
    FROM unnest(more) AS ask
    WHERE hold.id = ask.hold AND hold.state = 0 AND hold.slice_no = ask.slice_no - 1
      AND ask.wanted_nanos > 0;
    GET DIAGNOSTICS grown = ROW_COUNT;
    IF grown < cardinality(more) THEN
        RAISE EXCEPTION SQLSTATE 'MG001';
    END IF;
    SELECT count(DISTINCT leg.account) INTO leg_count
    FROM unnest(more) AS ask JOIN hold_leg AS leg ON leg.hold = ask.hold;
    UPDATE account
    SET held_nanos = held_nanos + need.nanos
    FROM (
        SELECT leg.account AS id, sum(ask.wanted_nanos) AS nanos
        FROM unnest(more) AS ask JOIN hold_leg AS leg ON leg.hold = ask.hold GROUP BY leg.account
    ) AS need
    WHERE account.id = need.id
      AND account.kind IN ('wallet', 'budget')
      AND account.posted_nanos - account.held_nanos + account.credit_limit_nanos >= need.nanos;
    GET DIAGNOSTICS paid = ROW_COUNT;
    IF paid < leg_count THEN
        RAISE EXCEPTION SQLSTATE 'MG001';
    END IF;
    RETURN ARRAY(
        SELECT moongate_shown(it)
        FROM unnest(more) WITH ORDINALITY AS ask JOIN hold AS it ON it.id = ask.hold
        ORDER BY ask.ordinality
    );
END $$;

-- Set more aside for one hold, as much as its legs can pay; null when it is not open.
CREATE FUNCTION moongate_extend_one(ask moongate_more, at_ms BIGINT) RETURNS JSONB
LANGUAGE plpgsql AS $$
DECLARE
    it hold;
    free BIGINT;
BEGIN
    SELECT * INTO it FROM hold WHERE id = ask.hold AND state = 0;
    IF NOT FOUND THEN
        RETURN 'null';
    END IF;
    IF it.slice_no = ask.slice_no - 1 THEN
        SELECT min(posted_nanos - held_nanos + credit_limit_nanos) INTO free
        FROM hold_leg AS leg JOIN account ON account.id = leg.account WHERE leg.hold = it.id;
        IF free < ask.wanted_nanos THEN
            ask.wanted_nanos := greatest(0, free - free % greatest(ask.unit_nanos, 1));
        END IF;
        IF ask.wanted_nanos > 0 THEN
            RETURN (moongate_extend_all(ARRAY[ask], at_ms))[1];
        END IF;
    END IF;
    UPDATE hold SET renewed_ms = greatest(renewed_ms, at_ms) WHERE id = it.id RETURNING * INTO it;
    RETURN moongate_shown(it);
END $$;

-- The legs that a hold has beside those that it names: itself, and each budget's present window.
CREATE FUNCTION moongate_with_legs(wanted moongate_wanted[], at_ms BIGINT)
RETURNS moongate_wanted[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        SELECT ROW (
            want.id, want.key, want.account, want.model, want.amount_nanos, want.slice_no,
            want.price_version, want.owner, want.lease_s, want.project,
            ARRAY(
                SELECT want.account COLLATE "C"
                UNION SELECT unnest(want.legs)
                UNION SELECT budget.id || '/' || moongate_window(budget.per, at_ms)
                FROM (VALUES
                    ('key', want.key),
                    ('account', want.account),
                    ('project', want.account || '/' || nullif(want.project, ''))
                ) AS payer (scope, subject)
                JOIN budget ON budget.scope = payer.scope AND budget.subject = payer.subject
                ORDER BY 1
            ),
            want.floor_nanos, want.unit_nanos, want.key_macs, want.body_macs, want.expires_ms
        )::moongate_wanted
        FROM unnest(wanted) WITH ORDINALITY AS want ORDER BY want.ordinality
    );
END $$;

-- Complete the legs, and open the windows that they name where nobody did yet.
CREATE FUNCTION moongate_legs(wanted moongate_wanted[], at_ms BIGINT) RETURNS moongate_wanted[]
LANGUAGE plpgsql AS $$
DECLARE
    full_legs moongate_wanted[];
    unopened TEXT[];
BEGIN
    LOOP
        full_legs := moongate_with_legs(wanted, at_ms);
        SELECT array_agg(DISTINCT budget.id) INTO unopened
        FROM unnest(full_legs) AS want, unnest(want.legs) AS leg (id)
        JOIN budget ON budget.id = regexp_replace(leg.id, '/[^/]*$', '')
            AND leg.id = budget.id || '/' || moongate_window(budget.per, at_ms)
        WHERE NOT EXISTS (SELECT 1 FROM account WHERE account.id = leg.id)
          AND NOT EXISTS (SELECT 1 FROM hold WHERE hold.id = want.id);
        IF unopened IS NULL THEN
            RETURN full_legs;
        END IF;
        -- A cap that is being changed must not be missed by a window that is being opened.
        PERFORM 1 FROM budget WHERE id = ANY (unopened) ORDER BY id FOR SHARE;
        INSERT INTO account (id, kind, posted_nanos, held_nanos, credit_limit_nanos, created_ms)
        SELECT id || '/' || moongate_window(per, at_ms), 'budget', 0, 0, cap_nanos, at_ms
        FROM budget WHERE id = ANY (unopened) ORDER BY 1
        ON CONFLICT (id) DO NOTHING;
    END LOOP;
END $$;

-- A batch of moves: what was held comes free first, then running holds grow, then new ones are
-- made. Returns the answers of each kind in their order. A move at fault is that move's alone.
CREATE FUNCTION moongate_moves(settles JSONB, extends JSONB, holds JSONB, shard TEXT)
RETURNS JSONB LANGUAGE plpgsql
-- Plans are made once a session, perhaps while the tables are empty: they shall go by the indexes.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    at_ms BIGINT := moongate_now();
    ends moongate_end[] := ARRAY(
        SELECT it FROM jsonb_populate_recordset(NULL::moongate_end, settles) AS it
    );
    more moongate_more[] := ARRAY(
        SELECT it FROM jsonb_populate_recordset(NULL::moongate_more, extends) AS it
    );
    wanted moongate_wanted[] := ARRAY(
        SELECT it FROM jsonb_populate_recordset(NULL::moongate_wanted, holds) AS it
    );
    running TEXT[];
    touched TEXT[];
    won TEXT[];
    settled JSONB[] := '{}';
    extended JSONB[] := '{}';
    held JSONB[] := '{}';
    broken TEXT;
    said TEXT;
BEGIN
    IF wanted <> '{}' THEN
        wanted := moongate_legs(wanted, at_ms);
    END IF;
    SELECT array_agg(hold) INTO running FROM (
        SELECT hold FROM unnest(ends) UNION ALL SELECT hold FROM unnest(more)
    ) AS mine;
    SELECT array_agg(DISTINCT id) INTO touched FROM (
        SELECT unnest(want.legs) AS id FROM unnest(wanted) AS want
        UNION ALL
        SELECT leg.account FROM unnest(running) AS one (id)
        JOIN hold_leg AS leg ON leg.hold = one.id
        UNION ALL
        SELECT kind || '/' || shard FROM unnest(ARRAY['revenue', 'contra', 'forgiven']) AS kind
        WHERE EXISTS (SELECT 1 FROM unnest(ends) WHERE charge_nanos > 0 OR forgiven_nanos > 0)
    ) AS leg;
    PERFORM 1 FROM account WHERE id = ANY (touched) ORDER BY id FOR NO KEY UPDATE;
    PERFORM 1 FROM hold WHERE id = ANY (running) ORDER BY id FOR NO KEY UPDATE;

    IF ends <> '{}' THEN
        BEGIN
            won := moongate_settle(ends, shard, at_ms);
            settled := ARRAY(
                SELECT to_jsonb(done.hold = ANY (won))
                FROM unnest(ends) WITH ORDINALITY AS done ORDER BY done.ordinality
            );
        EXCEPTION
            WHEN integrity_constraint_violation OR data_exception OR raise_exception THEN
                FOR i IN 1..cardinality(ends) LOOP
                    BEGIN
                        won := moongate_settle(ends[i:i], shard, at_ms);
                        settled := settled || to_jsonb(won <> '{}');
                    EXCEPTION
                        WHEN integrity_constraint_violation OR data_exception OR raise_exception
                        THEN
                            GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME, said = MESSAGE_TEXT;
                            settled := settled || moongate_fault(SQLSTATE, broken, said);
                    END;
                END LOOP;
        END;
    END IF;

    IF more <> '{}' THEN
        BEGIN
            extended := moongate_extend_all(more, at_ms);
        EXCEPTION
            WHEN integrity_constraint_violation OR data_exception OR raise_exception
                OR SQLSTATE 'MG001'
            THEN
                FOR i IN 1..cardinality(more) LOOP
                    BEGIN
                        extended := extended || moongate_extend_one(more[i], at_ms);
                    EXCEPTION
                        WHEN integrity_constraint_violation OR data_exception OR raise_exception
                        THEN
                            GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME, said = MESSAGE_TEXT;
                            extended := extended || moongate_fault(SQLSTATE, broken, said);
                    END;
                END LOOP;
        END;
    END IF;

    IF wanted <> '{}' THEN
        BEGIN
            held := moongate_hold_all(wanted, at_ms);
        EXCEPTION
            WHEN integrity_constraint_violation OR data_exception OR raise_exception
                OR SQLSTATE 'MG001'
            THEN
                FOR i IN 1..cardinality(wanted) LOOP
                    BEGIN
                        held := held || moongate_hold_one(wanted[i], at_ms);
                    EXCEPTION
                        WHEN integrity_constraint_violation OR data_exception OR raise_exception
                        THEN
                            GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME, said = MESSAGE_TEXT;
                            held := held || moongate_fault(SQLSTATE, broken, said);
                    END;
                END LOOP;
        END;
    END IF;
    RETURN jsonb_build_array(to_jsonb(settled), to_jsonb(extended), to_jsonb(held));
END $$;

-- Why a move cannot be: the constraint's name, or a trigger's sentence, or a code; never a value.
CREATE FUNCTION moongate_fault(code TEXT, broken TEXT, said TEXT) RETURNS JSONB
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'fault', CASE WHEN broken <> '' THEN broken WHEN code = 'P0001' THEN said ELSE code END
    )
$$;

-- Resolve holds whose lease and grace ran out: what they noted is forgiven, or, with checkpoint,
-- charged as far as the hold goes. At most 200 at once; returns their ids.
CREATE FUNCTION moongate_expire(grace_s BIGINT, checkpoint BOOLEAN, shard TEXT) RETURNS TEXT[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    at_ms BIGINT := moongate_now();
    lapsed TEXT[];
BEGIN
    SELECT array_agg(id) INTO lapsed FROM (
        SELECT id FROM hold
        WHERE resolved_ms IS NULL AND renewed_ms <= at_ms
          AND renewed_ms + (lease_s + grace_s) * 1000 <= at_ms
        ORDER BY renewed_ms LIMIT 200
    ) AS old;
    IF lapsed IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM 1 FROM account WHERE id IN (
        SELECT leg.account FROM hold_leg AS leg WHERE leg.hold = ANY (lapsed)
        UNION ALL
        SELECT kind || '/' || shard FROM unnest(ARRAY['revenue', 'contra', 'forgiven']) AS kind
    ) ORDER BY id FOR NO KEY UPDATE;
    -- Whoever is being renewed or settled now is left alone.
    SELECT array_agg(id) INTO lapsed FROM (
        SELECT id FROM hold
        WHERE id = ANY (lapsed) AND state = 0
          AND renewed_ms + (lease_s + grace_s) * 1000 <= at_ms
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ) AS old;
    RETURN moongate_settle(ARRAY(
        SELECT ROW (
            3, false, id, key, account, model, '', 'expired',
            run_input, run_cached, run_output, run_searches, NULL, false,
            price_version, due.charge, due.total - due.charge, at_ms,
            false, 0, NULL, greatest(0, at_ms - created_ms), NULL, NULL, NULL
        )::moongate_end
        FROM (
            SELECT hold.*,
                run_input * input_nanos + run_cached * cached_nanos + run_output * output_nanos
                    + run_searches * search_nanos AS total
            FROM hold JOIN price ON price.version = hold.price_version
            WHERE hold.id = ANY (lapsed)
        ) AS old,
        LATERAL (
            SELECT total,
                CASE WHEN checkpoint THEN least(total, amount_nanos) ELSE 0 END AS charge
        ) AS due
    ), shard, at_ms);
END $$;

-- Post an amount to a wallet against the account of its source. Returns done, known (the tx or
-- the top-up's event is booked already), missing (no such wallet) or cannot (it cannot take it).
CREATE FUNCTION moongate_credit(
    wallet TEXT, nanos BIGINT, credit_kind TEXT, against TEXT, credit_tx TEXT,
    top_source TEXT, top_event TEXT, top_amount BIGINT, top_currency TEXT, top_method TEXT
) RETURNS TEXT LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    at_ms BIGINT := moongate_now();
BEGIN
    PERFORM 1 FROM account WHERE id IN (wallet, against) ORDER BY id FOR NO KEY UPDATE;
    IF EXISTS (SELECT 1 FROM entry WHERE tx = credit_tx)
        OR EXISTS (SELECT 1 FROM topup WHERE source = top_source AND event = top_event)
    THEN
        RETURN 'known';
    END IF;
    PERFORM 1 FROM account WHERE id = wallet AND kind = 'wallet';
    IF NOT FOUND THEN
        RETURN 'missing';
    END IF;
    PERFORM 1 FROM account
    WHERE id = wallet
      AND posted_nanos - held_nanos + credit_limit_nanos + nanos >= 0
      AND posted_nanos + nanos BETWEEN -4000000000000000000 AND 4000000000000000000;
    IF NOT FOUND THEN
        RETURN 'cannot';
    END IF;
    PERFORM moongate_post(ARRAY[
        ROW (credit_tx, 0, wallet, nanos, credit_kind, at_ms)::moongate_line,
        ROW (credit_tx, 1, against, -nanos, credit_kind, at_ms)::moongate_line
    ], '{}');
    IF top_source IS NOT NULL THEN
        INSERT INTO topup (source, event, tx, account, amount, currency, method, created_ms)
        VALUES (top_source, top_event, credit_tx, wallet, top_amount, top_currency, top_method,
            at_ms);
    END IF;
    RETURN 'done';
END $$;

-- Make a budget, or give it another cap, in its present window too. Returns its id.
CREATE FUNCTION moongate_budget_set(
    new_id TEXT, payer TEXT, new_scope TEXT, new_subject TEXT, new_per TEXT, cap BIGINT,
    made_ms BIGINT
) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    it budget;
BEGIN
    INSERT INTO budget (id, account, scope, subject, per, cap_nanos, created_ms)
    VALUES (new_id, payer, new_scope, new_subject, new_per, cap, made_ms)
    ON CONFLICT (scope, subject, per) DO UPDATE SET cap_nanos = EXCLUDED.cap_nanos
    RETURNING * INTO it;
    UPDATE account SET credit_limit_nanos = cap
    WHERE id = it.id || '/' || moongate_window(it.per, moongate_now());
    RETURN it.id;
END $$;

-- End a budget. Its windows refuse nothing any more, so that requests that run go on.
CREATE FUNCTION moongate_budget_remove(old_scope TEXT, old_subject TEXT, old_per TEXT)
RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE
    gone TEXT;
BEGIN
    DELETE FROM budget WHERE scope = old_scope AND subject = old_subject AND per = old_per
    RETURNING id INTO gone;
    IF gone IS NULL THEN
        RETURN false;
    END IF;
    -- Every id that begins with "GONE/": "0" comes right after "/".
    PERFORM 1 FROM account WHERE id > gone || '/' AND id < gone || '0'
    ORDER BY id FOR NO KEY UPDATE;
    UPDATE account SET credit_limit_nanos = 4000000000000000000
    WHERE id > gone || '/' AND id < gone || '0';
    RETURN true;
END $$;

-- The secrets of a purpose that are alive, newest first; a fresh one joins when it is time.
CREATE FUNCTION moongate_rotate_secret(what TEXT, fresh BYTEA, period_ms BIGINT)
RETURNS BYTEA[] LANGUAGE plpgsql AS $$
DECLARE
    at_ms BIGINT;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('moongate secret ' || what));
    at_ms := moongate_now();
    IF NOT EXISTS (
        SELECT 1 FROM secret WHERE purpose = what AND created_ms >= at_ms - period_ms
    ) THEN
        INSERT INTO secret (purpose, bytes, created_ms) VALUES (what, fresh, at_ms);
    END IF;
    DELETE FROM secret WHERE purpose = what AND created_ms < at_ms - 2 * period_ms;
    RETURN ARRAY(SELECT bytes FROM secret WHERE purpose = what ORDER BY created_ms DESC);
END $$;

-- Use an invitation up and insert the key that came with it, for its account and by its name.
-- Returns the invitation's id, or null when it is unknown, used or past its time.
CREATE FUNCTION moongate_invite_take(code BYTEA, fresh JSONB) RETURNS TEXT
LANGUAGE plpgsql AS $$
DECLARE
    it invite;
    at_ms BIGINT;
BEGIN
    SELECT * INTO it FROM invite WHERE mac = code FOR UPDATE;
    at_ms := moongate_now();
    IF it.id IS NULL OR it.used_ms IS NOT NULL OR it.expires_ms <= at_ms THEN
        RETURN NULL;
    END IF;
    PERFORM moongate_key_insert(fresh || jsonb_build_object('account', it.account, 'name', it.name));
    UPDATE invite SET used_ms = at_ms, key = fresh ->> 'id' WHERE id = it.id;
    RETURN it.id;
END $$;

-- A key as one JSON object of its columns.
CREATE FUNCTION moongate_key_insert(fresh JSONB) RETURNS void LANGUAGE sql AS $$
    INSERT INTO api_key (
        id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention,
        expires_ms, revoked_ms, project, rpm, tpm, concurrency, old_mac, old_until_ms
    )
    SELECT id, account, name, mac, last4, created_ms, admin, models, policy, zero_retention,
        expires_ms, revoked_ms, project, rpm, tpm, concurrency, old_mac, old_until_ms
    FROM jsonb_populate_record(NULL::api_key, fresh)
$$;
