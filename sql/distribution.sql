-- lock: let nothing else change the schema until the end of the transaction; the lock of the migrations
SELECT pg_advisory_xact_lock(hashtext('billing_service.schema_migrations'));

-- citus_version: the version of Citus in this database; null without it
SELECT extversion FROM pg_extension WHERE extname = 'citus';

-- cluster: whether this node is the coordinator, and how many nodes take shards; asked only of a database of Citus
SELECT citus_is_coordinator() AS is_coordinator,
    (SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary') AS nodes;

-- next_table: the next table that is to be distributed, if any is left, after all that its foreign keys refer to. Tables whose
-- primary key begins with the customer id are distributed by it; the others are copied to every node
WITH ours AS (
    SELECT pg_class.oid, relname AS name, pg_total_relation_size(pg_class.oid) AS bytes,
        EXISTS (
            SELECT FROM pg_index
            JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = pg_class.oid AND indisprimary AND attname = 'customer_id'
        ) AS by_customer,
        EXISTS (
            SELECT FROM pg_dist_partition WHERE logicalrelid = pg_class.oid AND (partmethod = 'h' OR repmodel = 't')
        ) AS is_done
    FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND NOT relation_is_a_known_shard(pg_class.oid)
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND classid = 'pg_class'::regclass AND deptype = 'e')
)
SELECT name, by_customer, bytes, (SELECT count(*) FROM ours WHERE is_done) + 1 AS number, (SELECT count(*) FROM ours) AS total
FROM ours
WHERE NOT is_done
    AND NOT EXISTS (
        SELECT FROM pg_constraint
        JOIN ours AS other ON other.oid = confrelid
        WHERE conrelid = ours.oid AND contype = 'f' AND confrelid <> conrelid AND NOT other.is_done
    )
ORDER BY name <> 'customers', by_customer DESC, name
LIMIT 1;

-- distribute_customers: distribute the customers, into $1 shards
SELECT create_distributed_table('customers', 'customer_id', colocate_with => 'none', shard_count => $1::integer);

-- distribute_by_customer: distribute a table by customer, to where the customers are
SELECT create_distributed_table($1::text::regclass, 'customer_id', colocate_with => 'customers');

-- drop_triggers: take away what only programs need that run on no cluster; a table with triggers cannot be distributed
DROP FUNCTION IF EXISTS count_void() CASCADE;

-- copy_to_all: copy a table to every node
SELECT create_reference_table($1::text::regclass);

-- functions: the functions to copy to every node. Those that record usage of a customer, which they are given first, are
-- run on the node of that customer
SELECT pg_proc.oid::regprocedure::text AS signature,
    coalesce(proargnames[1] = 'customer_id' AND provolatile = 'v', false) AS by_customer
FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND classid = 'pg_proc'::regclass AND deptype = 'e')
ORDER BY 1;

-- run_at_customer: run a function on the node of the customer that it is given first
SELECT create_distributed_function($1::text::regprocedure, 'customer_id', colocate_with => 'customers');

-- copy_function: copy a function to every node
SELECT create_distributed_function($1::text::regprocedure);

-- set_up: settings of this database; Citus hands them on to every node. Hiding shards from the catalog makes a driver's queries
-- for types 30 times slower. More connections between nodes are kept for what reads many shards
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET citus.override_table_visibility = off', current_database());
    EXECUTE format('ALTER DATABASE %I SET citus.max_cached_conns_per_worker = 8', current_database());
END
$$;

-- left_behind: the tables of which the coordinator still has the rows that were copied to the nodes
SELECT logicalrelid::regclass::text AS name
FROM pg_dist_partition
WHERE (partmethod = 'h' OR repmodel = 't') AND pg_relation_size(logicalrelid) > 0;

-- drop_left_behind: remove the rows of a table, and of those that refer to it, that were copied to the nodes
SELECT truncate_local_data_after_distributing_table($1::text::regclass);

-- write_in_sequence: write shard by shard until the end of the transaction, as a statement that changes all of them needs
-- beside one that reads others. Without Citus it does nothing
SELECT set_config('citus.multi_shard_modify_mode', 'sequential', true);
