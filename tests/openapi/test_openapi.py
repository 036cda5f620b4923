"""The document: true, complete, and the committed copy of it."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import validate

from billing_service.app import OPERATIONS
from billing_service.openapi import openapi_document

HERE = Path(__file__).parent
COPY = HERE.parents[1] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(openapi_document(OPERATIONS))


def test_the_document_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_the_committed_copy_is_the_document(document: Any) -> None:
    assert json.loads(COPY.read_text()) == document, "run: billing-service openapi > docs/openapi.json"


def test_every_operation_has_examples_and_says_what_it_refuses(document: Any) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            for response in operation["responses"].values():
                media = response["content"].get("application/problem+json")
                assert media is None or media["examples"], operation["operationId"]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            assert body is None or body["example"], operation["operationId"]


async def test_the_service_gives_the_document(shared_http: aiohttp.ClientSession, document: Any) -> None:
    async with shared_http.get("/openapi.json") as response:
        assert await response.json() == document


async def test_the_page_needs_no_other_host(shared_http: aiohttp.ClientSession) -> None:
    async with shared_http.get("/docs") as response:
        page = await response.text()
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "://" not in page
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js", "favicon.png"):
        assert f"docs/{name}" in page
        async with shared_http.get(f"/docs/{name}") as response:
            assert response.status == 200
    async with shared_http.get("/docs/swagger-editor.js") as response:
        assert response.status == 404
