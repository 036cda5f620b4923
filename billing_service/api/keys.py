"""The API key endpoints, for callers with the scope `admin` whose key is not bound to a customer."""

from starlette.responses import Response

from billing_client.contract.object_decoding import ObjectDecoder
from billing_client.contract.query_parameters import NoQuery
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger import api_keys
from billing_service.ledger.api_keys import CreatedKey, Key, KeyPage, KeyRightsError, NewKey
from billing_service.telemetry import audit

_decode_new_key = ObjectDecoder[NewKey](NewKey)


async def create_key(request: ApiRequest, _: NoQuery) -> Response:
    """Create an API key. Its text is in this response only and cannot be read again."""
    request.caller.require_reach(None)
    new = _decode_new_key(await request.read_json())
    if new.expires_at is not None and new.expires_at <= request.services.clock.now():
        raise invalid_input("/expiresAt", "must be in the future")
    async with request.services.database.write_connection() as connection:
        try:
            key, text = await api_keys.create_key(connection, new)
        except KeyRightsError as error:
            raise _not_granted(error) from error
    audit.key_created(f"bk_{key.id}", key.scopes, key.customer_id, request.caller.key_name or request.caller.name)
    return JsonResponse(CreatedKey.of(key, text), 201)


async def list_keys(request: ApiRequest, _: NoQuery) -> Response:
    """List all API keys in the order of their creation, without their secrets."""
    request.caller.require_reach(None)
    async with request.services.database.read_connection() as connection:
        return JsonResponse(KeyPage(data=await api_keys.list_keys(connection), next_cursor=None))


async def revoke_key(request: ApiRequest, _: NoQuery) -> Response:
    """Revoke an API key permanently. Every process refuses it within 5 seconds."""
    request.caller.require_reach(None)
    key_id = request.ids["key_id"].removeprefix("bk_")
    async with request.services.database.write_connection() as connection:
        try:
            key = await api_keys.revoke_key(connection, key_id)
        except KeyRightsError as error:
            raise _not_granted(error) from error
    if key is None:
        raise ProblemError(problem("key_not_found", "There is no API key with this id."))
    audit.key_revoked(f"bk_{key.id}", key.customer_id, request.caller.key_name or request.caller.name)
    return JsonResponse(key)


def _not_granted(error: KeyRightsError) -> ProblemError:
    """The error (403) if the service's database role may not manage keys. The operator can grant this right."""
    return ProblemError(problem("forbidden", f"API keys cannot be managed over HTTP here: {error}"))


OPERATIONS = [
    Operation(
        method="POST",
        path="/keys",
        handler=create_key,
        tag="keys",
        scope="admin",
        reach="handler",
        body=NewKey,
        status=201,
        answer=CreatedKey,
        problems=("customer_not_found",),
    ),
    Operation(
        method="GET",
        path="/keys",
        handler=list_keys,
        tag="keys",
        scope="admin",
        reach="handler",
        answer=KeyPage,
    ),
    Operation(
        method="DELETE",
        path="/keys/{key_id}",
        handler=revoke_key,
        tag="keys",
        scope="admin",
        reach="handler",
        answer=Key,
        problems=("key_not_found",),
    ),
]
