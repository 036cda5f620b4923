"""API keys, for callers with the scope `admin` whose key is not bound to a customer: list, create and revoke."""

from datetime import UTC, datetime, time

import msgspec
from starlette.responses import Response

from billing_client.contract.object_decoding import ObjectDecoder
from billing_service.console.formats import path
from billing_service.console.pages import View, page_operation, read_form, redirect, show, zone_of
from billing_service.console.spans import read_day
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.requests import ApiRequest
from billing_service.ledger import api_keys
from billing_service.ledger.api_keys import SCOPES, CreatedKey, KeyRightsError, NewKey
from billing_service.telemetry import audit

_decode_new_key = ObjectDecoder[NewKey](NewKey)


async def list_keys(request: ApiRequest, _: None) -> Response:
    """List all API keys, without their secrets."""
    request.caller.require_reach(None)
    return await _show(request)


async def _show(
    request: ApiRequest, created: CreatedKey | None = None, fault: ProblemError | None = None, name: str = ""
) -> Response:
    async with request.services.database.read_connection() as connection:
        keys = await api_keys.list_keys(connection)
    now = request.services.clock.now()
    return show(
        request,
        "keys",
        View(zone_of(request), now),
        fault.details.status if fault else 200,
        keys=sorted(keys, key=lambda key: key.created_at, reverse=True),
        created=created,
        problem=fault.details if fault else None,
        scopes=SCOPES,
        name=name,
        now=now,
    )


async def create_key(request: ApiRequest, _: None) -> Response:
    """Create an API key, and show its text once."""
    request.caller.require_reach(None)
    form = await read_form(request)
    try:
        created = await _create(request, form)
    except ProblemError as error:
        return await _show(request, fault=error, name=form.get("name", ""))
    return await _show(request, created)


async def _create(request: ApiRequest, form: dict[str, str]) -> CreatedKey:
    sent = {
        "name": form.get("name", "").strip(),
        "scopes": [scope for scope in SCOPES if f"scope {scope}" in form],
        "customerId": form.get("customer", "").strip() or None,
        "expiresAt": _end_of(form["expires"]).isoformat() if "expires" in form else None,
    }
    new = _decode_new_key(msgspec.json.encode(sent))
    if new.expires_at is not None and new.expires_at <= request.services.clock.now():
        raise invalid_input("/expiresAt", "must be in the future")
    async with request.services.database.write_connection() as connection:
        try:
            key, text = await api_keys.create_key(connection, new)
        except KeyRightsError as error:
            raise _not_granted(error) from error
    audit.key_created(f"bk_{key.id}", key.scopes, key.customer_id, request.caller.key_name or request.caller.name)
    return CreatedKey.of(key, text)


def _end_of(day: str) -> datetime:
    """The end of a day, in UTC. Raises ProblemError (400)."""
    return datetime.combine(read_day("expires", day), time(23, 59, 59), UTC)


async def revoke_key(request: ApiRequest, _: None) -> Response:
    """Revoke an API key permanently. Sessions that were opened with it end."""
    request.caller.require_reach(None)
    await read_form(request)
    async with request.services.database.write_connection() as connection:
        try:
            key = await api_keys.revoke_key(connection, request.ids["key_id"])
        except KeyRightsError as error:
            raise _not_granted(error) from error
    if key is None:
        raise ProblemError(problem("key_not_found", "There is no API key with this id."))
    audit.key_revoked(f"bk_{key.id}", key.customer_id, request.caller.key_name or request.caller.name)
    return redirect(request, path("keys"))


def _not_granted(error: KeyRightsError) -> ProblemError:
    return ProblemError(problem("forbidden", f"API keys cannot be managed here: {error}"))


OPERATIONS = [
    page_operation("GET", path("keys"), list_keys, "admin"),
    page_operation("POST", path("keys"), create_key, "admin"),
    page_operation("POST", "/console/keys/{key_id}/revoke", revoke_key, "admin"),
]
