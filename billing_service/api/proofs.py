"""What proves a statement: inclusion proofs of its records, and the public keys of its signature."""

import re

from starlette.responses import Response

from billing_client.contract.problems import usage_not_found
from billing_client.contract.query_parameters import NoQuery, ProofQuery
from billing_client.contract.request_parsing import check_timezone
from billing_client.contract.statements.structs import InclusionProof, JsonWebKeySet, StatementProgress
from billing_service.api.statements import not_prepared
from billing_service.http.errors import ProblemError, invalid_input
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger.customers import require_customer
from billing_service.ledger.statements.pieces import NotPreparedError
from billing_service.ledger.statements.proofs import find_proof, month_of_record

_HASH = re.compile(r"[0-9a-f]{64}")


async def get_proof(request: ApiRequest, query: ProofQuery) -> Response:
    """Prove that a record counts in the statement with a digest. The statement is one that was issued, or the month of
    the record as it stands, in the time zone. The proof is checked without the service: the SDK does, and the reference
    says how."""
    if not _HASH.fullmatch(query.digest):
        raise invalid_input("query/digest", "must be a digest: 64 lower-case hex digits")
    check_timezone(query.timezone)
    services, customer_id, request_id = request.services, request.customer_id, request.ids["request_id"]
    async with services.database.read_connection(is_large=True) as connection:
        month = None
        if _HASH.fullmatch(request_id):
            month = await month_of_record(connection, customer_id, bytes.fromhex(request_id), query.timezone)
        if month is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
        try:
            proof = await find_proof(connection, month, bytes.fromhex(request_id), bytes.fromhex(query.digest))
        except NotPreparedError as error:
            services.pieces.want(*month.range)
            return not_prepared(error.records, error.prepared)
    return JsonResponse(proof)


async def get_signing_keys(request: ApiRequest, _: NoQuery) -> Response:
    """Read the public keys that check the signatures of statements, as a JSON Web Key Set (RFC 7517)."""
    return JsonResponse(JsonWebKeySet(keys=request.services.signer.public["keys"]))


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id}/usage/{request_id}/proof",
        handler=get_proof,
        tag="billing",
        scope="usage:read",
        reach="customer",
        query=ProofQuery,
        answer=InclusionProof[PlainDecimal],
        accepted=StatementProgress,
        problems=("customer_not_found", "usage_not_found", "statement_not_found", "usage_not_counted"),
    ),
    Operation(
        method="GET",
        path="/.well-known/jwks.json",
        handler=get_signing_keys,
        tag="service",
        scope=None,
        reach="open",
        answer=JsonWebKeySet,
    ),
]
