-- has_citus: whether this database is one of Citus
SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL;

-- is_distributed: whether usage is distributed by customer; asked only of a database of Citus
SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('usage_records') AND partmethod = 'h');

-- nodes_of_customers: the number of the node that holds the usage of each of these customers, and where it listens
SELECT wanted.customer_id, placement.groupid AS node, nodename || ':' || nodeport AS address
FROM unnest($1::text[]) AS wanted (customer_id)
JOIN pg_dist_placement AS placement
    ON placement.shardid = get_shard_id_for_distribution_column('usage_records', wanted.customer_id)
JOIN pg_dist_node AS node ON node.groupid = placement.groupid AND noderole = 'primary';
