"""The document: true, complete, and the committed copy of it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import validate

from billing_client.contract.decimals import plain_decimal
from billing_service.app import OPERATIONS
from billing_service.openapi.document import openapi_document
from billing_service.settings import Settings
from tests.calls import given_customer
from tests.keys import bearer, given_key
from tests.programs import UNMEASURED
from tests.services import running_service

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOOKS = "tests.openapi.schemathesis_hooks"
COPY = ROOT / "docs" / "openapi.json"


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_schemathesis_finds_nothing(database_url: str, tmp_path: Path, seed: int) -> None:
    """All checks, over examples, boundaries, random data valid and not, and sequences of calls, with a key required."""
    key = await given_key(database_url, "admin")
    with running_service(Settings(database_url=database_url, env="production")) as service:
        async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
            await given_customer(http)
        arguments = ["--config-file", str(HERE / "schemathesis.toml"), "run", f"{service.url}/openapi.json"]
        arguments += ["--header", f"Authorization: Bearer {key}", "--checks", "all", "--max-examples", "20"]
        arguments += ["--exclude-path", "/events"]  # it would wait for the end of each stream
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            *(*arguments, "--continue-on-failure", "--seed", str(seed), "--no-color"),
            cwd=tmp_path,
            env=os.environ | UNMEASURED | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert "Stateful" in output


def test_the_pattern_of_a_number_is_what_is_taken_as_one(document: Any) -> None:
    vectors = json.loads((ROOT / "billing_client" / "contract" / "request_id_vectors.json").read_text())
    pattern = document["components"]["schemas"]["NewUsage"]["properties"]["unitsConsumed"]["pattern"]
    for text in (spelling for vector in vectors["decimals"] for spelling in vector["spellings"]):
        assert re.search(pattern, text), text
    for text in vectors["refusedDecimals"]:
        with pytest.raises(ValueError, match=r"^must ") as refused:
            plain_decimal(text)
        assert bool(re.search(pattern, text)) == ("finite" not in str(refused.value)) or text == "1\n"  # "$" in Python


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document, from the outside in."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas_in(each)


def test_generators_find_what_they_need(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert not [each for each in schemas_in(document) if each.get("default", ...) is None]
    assert schemas["Batch"]["properties"]["records"]["items"] == {"$ref": "#/components/schemas/NewUsage"}
    for name, schema in schemas.items():
        for member in set(schema.get("properties", {})) - set(schema.get("required", [])):
            assert {"type": "null"} not in schema["properties"][member].get("anyOf", []), f"{name}.{member}"
    assert "voidedAt" in schemas["UsageRecord"]["required"]  # null, but always there
    assert "service" not in schemas["SummaryGroup"]["required"]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
