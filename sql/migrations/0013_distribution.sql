-- What a database that is distributed by customer (Citus) needs. Older programs keep calling the older functions.

-- As record_usage, for customers of which the first is given first: where usage is distributed, this runs on that customer's
-- node. Text columns come joined by line feeds, which no value contains; dimensions are null if no record has any. One time
-- of recording or one key stands for all; without times of occurrence they are the times of recording.
CREATE FUNCTION record_usage_of(
    customer_id text,
    all_new boolean,
    customer_ids text,
    request_ids bytea[],
    event_ids text,
    services text,
    units text,
    prices text,
    occurred timestamptz[],
    recorded timestamptz[],
    idempotency_keys text,
    recorded_by bytea[],
    all_dimensions text
) RETURNS bytea[] LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(recorded) = 1 THEN
        recorded := array_fill(recorded[1], ARRAY[cardinality(request_ids)]);
    END IF;
    IF cardinality(recorded_by) = 1 THEN
        recorded_by := array_fill(recorded_by[1], ARRAY[cardinality(request_ids)]);
    END IF;
    RETURN record_usage(
        all_new, string_to_array(customer_ids, E'\n'), request_ids, string_to_array(event_ids, E'\n', ''),
        string_to_array(services, E'\n'), string_to_array(units, E'\n'), string_to_array(prices, E'\n'),
        coalesce(occurred, recorded), recorded, string_to_array(idempotency_keys, E'\n', ''), recorded_by,
        string_to_array(all_dimensions, E'\n', '')::jsonb[], position('-' IN units) > 0
    );
END
$$;
