-- Programs of release 0.2.0 take a voided record out of the sums, and do not count it in `voided`. If another record of the
-- bucket came in its place, a piece seemed to have seen both. Their voids are counted for them. Older programs go on as
-- before. Not on Citus, which takes no triggers, and on which those programs do not run.
DO $migration$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        CREATE FUNCTION count_void() RETURNS trigger LANGUAGE plpgsql AS $function$
        BEGIN
            NEW.voided := OLD.voided + OLD.records - NEW.records;
            RETURN NEW;
        END
        $function$;
        CREATE TRIGGER usage_rollups_count_void BEFORE UPDATE OF records ON usage_rollups
        FOR EACH ROW WHEN (NEW.records < OLD.records AND NEW.voided = OLD.voided)
        EXECUTE FUNCTION count_void();
    END IF;
END
$migration$;
