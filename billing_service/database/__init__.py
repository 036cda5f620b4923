"""PostgreSQL: connections, migrations, named queries."""
