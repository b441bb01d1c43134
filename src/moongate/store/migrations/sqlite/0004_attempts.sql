-- How often an upstream was asked for one answer, and what the answers not delivered were worth: a
-- part of what was forgiven.
ALTER TABLE usage ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1 CHECK (attempts >= 1);
ALTER TABLE usage ADD COLUMN spoiled_nanos INTEGER NOT NULL DEFAULT 0
    CHECK (spoiled_nanos >= 0 AND spoiled_nanos <= forgiven_nanos);
