"""The service that records billable usage once: Starlette on uvicorn, PostgreSQL through asyncpg."""
