-- What the database itself refuses, for the tables that the script before this one changed.

CREATE TRIGGER entry_stays BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entry_kept BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;

-- An expired hold may be charged up to its amount, where crashed requests are settled.
DROP TRIGGER usage_fits_hold;
CREATE TRIGGER usage_fits_hold BEFORE INSERT ON usage WHEN NOT EXISTS (
    SELECT 1 FROM hold
    WHERE hold.id = NEW.hold
      AND hold.state <> 0
      AND hold.account = NEW.account
      AND hold.price_version = NEW.price_version
      AND NEW.charge_nanos <= iif(hold.state IN (1, 3), hold.amount_nanos, 0)
)
BEGIN SELECT RAISE(ABORT, 'usage does not fit its hold'); END;
