-- How often an upstream was asked for one answer, and what the answers not delivered were worth: a
-- part of what was forgiven. The two moves that write usage rows know of it from here on.
ALTER TABLE usage
    ADD COLUMN attempts BIGINT NOT NULL DEFAULT 1 CHECK (attempts >= 1),
    ADD COLUMN spoiled_nanos BIGINT NOT NULL DEFAULT 0,
    ADD CHECK (spoiled_nanos >= 0 AND spoiled_nanos <= forgiven_nanos);

ALTER TYPE moongate_end ADD ATTRIBUTE attempts BIGINT, ADD ATTRIBUTE spoiled_nanos BIGINT;

-- Resolve holds that are still open, each with its usage row and its entries. Returns their ids.
CREATE OR REPLACE FUNCTION moongate_settle(ends moongate_end[], shard TEXT, at_ms BIGINT) RETURNS TEXT[]
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
        upstream_cached, attempts, spoiled_nanos
    )
    SELECT
        done.hold, done.key, done.account, done.model, done.upstream, done.outcome, done.input,
        done.cache_read, done.output, done.searches, done.reasoning, done.estimated,
        done.price_version, done.charge_nanos, done.forgiven_nanos, hold.created_ms,
        CASE WHEN done.late THEN done.ended_ms ELSE at_ms END,
        done.streamed, done.status, done.first_token_ms, done.duration_ms, done.upstream_prompt,
        done.upstream_completion, done.upstream_cached, done.attempts, done.spoiled_nanos
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

-- Resolve holds whose lease and grace ran out: what they noted is forgiven, or, with checkpoint,
-- charged as far as the hold goes. At most 200 at once; returns their ids.
CREATE OR REPLACE FUNCTION moongate_expire(grace_s BIGINT, checkpoint BOOLEAN, shard TEXT) RETURNS TEXT[]
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
            false, 0, NULL, greatest(0, at_ms - created_ms), NULL, NULL, NULL, 1, 0
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
