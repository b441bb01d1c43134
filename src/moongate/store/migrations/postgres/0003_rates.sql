-- Rates where there is no Redis: the counting of core/rates.py as one function, on tables that
-- are not logged. A crash of the database forgets what was owed: one burst, and no money.

CREATE UNLOGGED TABLE rate (
    account TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    owed BIGINT NOT NULL CHECK (owed >= 0),
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (account, name)
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE rate_place (
    account TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    end_ms BIGINT NOT NULL,
    PRIMARY KEY (account, name, id)
);

-- One step, all or nothing. Rates have a limit and an amount each, rooms a limit. Returns what
-- refused (-1: nothing), how long it takes (ms), then what is owed of each rate.
CREATE FUNCTION moongate_rates(
    kind TEXT, lease_ms BIGINT, whose TEXT, ids TEXT[],
    rates TEXT[], limits BIGINT[], amounts BIGINT[],
    rooms TEXT[], places BIGINT[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
DECLARE
    share CONSTANT BIGINT := 60000;
    forgotten CONSTANT BIGINT := 120000;
    room_wait CONSTANT BIGINT := 1000;
    rates_count CONSTANT INTEGER := cardinality(rates);
    now_ms BIGINT;
    refused INTEGER := -1;
    longest BIGINT := 0;
    wait_ms BIGINT;
    over BIGINT;
    owed_now BIGINT[] := '{}';
    debt BIGINT;
BEGIN
    -- Whatever limits one account is counted one step at a time.
    PERFORM pg_advisory_xact_lock(hashtext('moongate rates'), hashtext(whose));
    now_ms := moongate_now();
    FOR i IN 1 .. rates_count LOOP
        SELECT greatest(
            0,
            least(r.owed, 2 * limits[i] * share)
            - limits[i] * least(greatest(now_ms - r.at_ms, 0), forgotten)
        ) INTO debt FROM rate r WHERE r.account = whose AND r.name = rates[i];
        owed_now := owed_now || coalesce(debt, 0);
        IF kind = 'take' THEN
            over := owed_now[i] - (limits[i] - least(amounts[i], limits[i])) * share;
            wait_ms := CASE WHEN over > 0 THEN (over + limits[i] - 1) / limits[i] ELSE 0 END;
            IF wait_ms > longest THEN
                refused := i - 1;
                longest := wait_ms;
            END IF;
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(rooms) LOOP
        DELETE FROM rate_place p
        WHERE p.account = whose AND p.name = rooms[i] AND p.end_ms <= now_ms;
        IF kind = 'take' AND room_wait > longest AND places[i] <= (
            SELECT count(*) FROM rate_place p WHERE p.account = whose AND p.name = rooms[i]
        ) THEN
            refused := rates_count + i - 1;
            longest := room_wait;
        END IF;
    END LOOP;
    IF refused >= 0 THEN
        RETURN ARRAY[refused, longest] || owed_now;
    END IF;
    FOR i IN 1 .. rates_count LOOP
        owed_now[i] := greatest(0, least(owed_now[i] + amounts[i] * share, 2 * limits[i] * share));
        INSERT INTO rate VALUES (whose, rates[i], owed_now[i], now_ms)
        ON CONFLICT (account, name) DO UPDATE SET owed = EXCLUDED.owed, at_ms = EXCLUDED.at_ms;
    END LOOP;
    IF kind = 'drop' THEN
        DELETE FROM rate_place p
        WHERE p.account = whose AND p.name = ANY (rooms) AND p.id = ANY (ids);
    ELSE
        INSERT INTO rate_place
        SELECT whose, room, id, now_ms + lease_ms FROM unnest(rooms) room, unnest(ids) id
        ON CONFLICT (account, name, id) DO UPDATE SET end_ms = EXCLUDED.end_ms;
    END IF;
    RETURN ARRAY[refused, longest] || owed_now;
END
$$;

-- Forget what is owed no more and places whose lease has ended; returns how many rows that were.
-- What a step has locked is left for the next time, so that nobody waits in a circle.
CREATE FUNCTION moongate_rates_forget() RETURNS BIGINT LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM rate USING (
            SELECT account, name FROM rate
            WHERE at_ms <= moongate_now() - 120000 FOR UPDATE SKIP LOCKED
        ) AS old
        WHERE rate.account = old.account AND rate.name = old.name
        RETURNING 1
    ), left_over AS (
        DELETE FROM rate_place USING (
            SELECT account, name, id FROM rate_place
            WHERE end_ms <= moongate_now() FOR UPDATE SKIP LOCKED
        ) AS old
        WHERE rate_place.account = old.account AND rate_place.name = old.name
            AND rate_place.id = old.id
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM left_over)
$$;
