"""The service that records billable usage exactly once: Starlette on uvicorn, PostgreSQL through asyncpg."""
