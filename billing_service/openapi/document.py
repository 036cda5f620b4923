"""Builds the OpenAPI 3.1 document from the operations and their structs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

import msgspec

from billing_client import __version__
from billing_client.contract.decimals import MAX_DIGITS, MAX_FRACTION_DIGITS, MAX_NUMERAL, NUMERAL
from billing_client.contract.problems import KINDS
from billing_client.contract.query_parameters import DIMENSION_FILTERS
from billing_client.contract.wire import MAX_DIMENSIONS, NO_CONTROL_CHARACTERS, Id, NewUsage, ProblemDetails
from billing_service.http.errors import PROBLEM_TYPE
from billing_service.http.operations import Operation, PlainDecimal, SentDecimal
from billing_service.openapi.examples import ANSWERS, BODIES, IDS, problem_example
from billing_service.openapi.members import describe_members, name_types_of_enums, without_null

_SCHEMAS = "#/components/schemas/"
_MARKS = re.compile(rb"_(?:Sent|Plain)Decimal_|\[(?:Sent|Plain)Decimal\]")  # in names and titles of generic structs
_PARAMETER = re.compile(r"\{(\w+)\}")
# patterns that only Python understands, and the same in ECMA-262, which OpenAPI uses
_PATTERNS = {NO_CONTROL_CHARACTERS: r"^[^\u0000-\u001f\u007f-\u009f]*$", r"(?![\s\S])": "$"}
_DESCRIPTION = """
Records billable usage exactly once. Two reports are the same usage if they have the same request id. This is a SHA-256
of the customer and the event id, or without an event id of customer, service, units and price. Every error is an RFC
9457 problem; its `code` says which one. To retry a call safely, repeat it with the same `Idempotency-Key`.
""".strip()
_TAGS = {
    "usage": "Usage records.",
    "customers": "The customers whose usage is recorded.",
    "billing": "Summaries and statements.",
    "keys": "API keys.",
    "service": "Health, metrics and documentation of the service.",
}
_HEADERS: dict[str, dict[str, Any]] = {
    "Location": {
        "description": "The path of the created resource.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "Sent if the call did nothing new: the response is that of the call that did.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Replica-Lag": {
        "description": "Sent if the response was read from a replica: how many seconds it is behind at most.",
        "schema": {"type": "string", "pattern": r"^[0-9]+\.[0-9]{3}$"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "RateLimit": {
        "description": "What is left of each limit, and when there is more (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "The configured limits.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "The credentials that are needed (RFC 6750).", "schema": {"type": "string"}},
    "Content-Disposition": {"description": "The suggested file name.", "schema": {"type": "string"}},
}
_HEADERS_OF = {
    "unavailable": ("Retry-After",),
    "rate_limited": ("Retry-After", "RateLimit", "RateLimit-Policy"),
    "unauthenticated": ("WWW-Authenticate",),
}
_DECIMALS: dict[type, dict[str, Any]] = {
    SentDecimal: {
        "type": ["string", "number"],
        "pattern": f"^{NUMERAL}$",
        "maxLength": MAX_NUMERAL,
        "exclusiveMinimum": -(10**MAX_DIGITS),
        "exclusiveMaximum": 10**MAX_DIGITS,
        "description": "A decimal number, as a JSON number or as a string. It is read exactly, without rounding: "
        f"at most {MAX_DIGITS} digits, of which at most {MAX_FRACTION_DIGITS} after the point. A string may also have "
        "a plus sign, leading zeros, or no digit on one side of the point.",
    },
    PlainDecimal: {"type": "string", "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$", "description": "An exact decimal."},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A unique value for one call. Send the same value with each retry, bare or as a quoted string.",
    "schema": {
        "type": "string",
        "pattern": r'^(?:[!#-~][!-~]{0,254}|"(?:[ !#-\[\]-~]|\\["\\]){1,255}")$',
    },
}


def openapi_document(operations: Iterable[Operation]) -> bytes:
    """The document of these operations, as JSON."""
    operations = [operation for operation in operations if operation.documented]
    queries = [each.query for each in operations if each.query is not None]
    structs: list[Any] = [
        struct for each in operations for struct in (each.body, each.answer, each.accepted) if struct is not None
    ]
    structs += [NewUsage[SentDecimal], ProblemDetails[PlainDecimal]]
    _, schemas = _schemas([*queries, *structs])
    describe_members(schemas, structs)
    paths: dict[str, Any] = {}
    for operation in operations:
        path = paths.setdefault(_PARAMETER.sub(lambda match: f"{{{_camel(match[1])}}}", operation.path), {})
        path[operation.method.lower()] = _operation(operation, schemas)
    query_names = {query.__name__ for query in queries}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "billing-service",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in sorted(schemas) if name not in query_names},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "bk_…"}},
        },
    }
    name_types_of_enums(document)
    text = _MARKS.sub(b"", msgspec.json.encode(document))
    for pattern, shown in _PATTERNS.items():
        text = text.replace(msgspec.json.encode(pattern)[1:-1], msgspec.json.encode(shown)[1:-1])
    return text


def _operation(operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    summary, _, rest = (operation.handler.__doc__ or "").partition(". ")
    described: dict[str, Any] = {
        "operationId": _camel(operation.handler.__name__),
        "summary": " ".join(summary.split()).rstrip("."),
        "tags": [operation.tag],
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation),
    }
    if rest:
        described["description"] = " ".join(rest.split())
    if operation.body is not None:
        media = {"schema": _reference(operation.body)}
        media |= _example(BODIES, operation.body)
        described["requestBody"] = {"required": True, "content": {"application/json": media}}
    if operation.scope is not None:
        described["security"] = [{"key": []}]
        described["x-scope"] = operation.scope
    return {name: value for name, value in described.items() if value}


def _parameters(operation: Operation, schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    id_schema = _reference(Id)
    parameters: list[dict[str, Any]] = [
        {"name": _camel(name), "in": "path", "required": True, "schema": id_schema, **IDS[name]._asdict()}
        for name in _PARAMETER.findall(operation.path)
    ]
    query = {} if operation.query is None else schemas[operation.query.__name__]
    for name, schema in query.get("properties", {}).items():
        if name == DIMENSION_FILTERS:
            parameters.append(_dimension_filters(schema))
            continue
        required = name in query["required"]
        schema = {key: value for key, value in without_null(schema).items() if (key, value) != ("default", None)}
        parameters.append({"name": name, "in": "query", "required": required, "schema": schema})
    return [*parameters, *([_IDEMPOTENCY_KEY] if operation.idempotency_key else [])]


def _dimension_filters(schema: dict[str, Any]) -> dict[str, Any]:
    """The parameters that filter by dimensions: an object that is sent as a parameter for each of its members."""
    values = {"type": "object", "additionalProperties": schema["additionalProperties"], "maxProperties": MAX_DIMENSIONS}
    names = {"propertyNames": {"pattern": r"^dimension\.[^\u0000-\u001f\u007f-\u009f]{1,64}$"}}
    said = {"description": schema["description"], "style": "form", "explode": True}
    return {"name": "dimensions", "in": "query", "required": False, **said, "schema": values | names}


def _responses(operation: Operation) -> dict[str, Any]:
    content = {
        media_type: {"schema": _reference(operation.answer), **_example(ANSWERS, operation.answer)}
        if media_type == "application/json"
        else {"schema": {"type": "string"}}
        for media_type in operation.media_types
    }
    responses: dict[str, Any] = {
        str(operation.status): _with_headers({"description": "Success.", "content": content}, operation.headers)
    }
    if operation.accepted is not None:
        accepted = {"schema": _reference(operation.accepted), **_example(ANSWERS, operation.accepted)}
        described = {"description": "Not yet: ask again.", "content": {"application/json": accepted}}
        responses["202"] = _with_headers(described, ["Retry-After"])
    by_status: dict[int, list[str]] = {}
    for code in operation.all_problems:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return responses | {str(status): _problem_response(by_status[status]) for status in sorted(by_status)}


def _problem_response(codes: list[str]) -> dict[str, Any]:
    schema = {
        "allOf": [{"$ref": f"{_SCHEMAS}ProblemDetails"}],
        "properties": {"code": {"enum": codes}},
    }
    examples = {code: {"value": msgspec.to_builtins(problem_example(code))} for code in codes}
    headers = [name for code in codes for name in _HEADERS_OF.get(code, ())]
    described = {
        "description": "; ".join(KINDS[code].title for code in codes) + ".",
        "content": {PROBLEM_TYPE: {"schema": schema, "examples": examples}},
    }
    return _with_headers(described, headers)


def _with_headers(response: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    headers = {name: _HEADERS[name] for name in names}
    return response | ({"headers": headers} if headers else {})


def _example(examples: Mapping[Any, Any], struct: Any) -> dict[str, Any]:
    example = examples.get(get_origin(struct) or struct)
    return {} if example is None else {"example": msgspec.json.decode(msgspec.json.encode(example))}


def _reference(struct: Any) -> Any:
    (schema,), _ = _schemas([struct])
    return schema


def _schemas(structs: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    references, schemas = msgspec.json.schema_components(
        structs, schema_hook=_DECIMALS.__getitem__, ref_template=_SCHEMAS + "{name}"
    )
    if batch := schemas.get("Batch"):  # whose records are kept as bytes, so that a bad one cannot harm its neighbours
        batch["properties"]["records"]["items"] = _reference(NewUsage[SentDecimal])
    for schema in schemas.values():
        if "description" in schema:  # from a docstring; its indentation depends on the version of Python
            schema["description"] = " ".join(schema["description"].split())
    return references, schemas


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
