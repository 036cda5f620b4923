"""The examples in the OpenAPI document. They are structs, so they always match the schemas."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from billing_client.contract.decoding import decode_usage
from billing_client.contract.problems import KINDS, invalid_input, problem
from billing_client.contract.statements.content_hashes import record_hash
from billing_client.contract.statements.digests import PieceRoot, inclusion_proof
from billing_client.contract.statements.merkle import tree_root
from billing_client.contract.statements.structs import (
    InclusionProof,
    IssuedStatement,
    IssuedStatements,
    IssueProgress,
    JsonWebKeySet,
    NewStatement,
    NewStatements,
    Rounding,
    Statement,
    StatementLine,
    StatementProgress,
    StatementSummaries,
    StatementSummary,
    StatementTotal,
    StatementVoids,
    VoidedTotal,
)
from billing_client.contract.wire import (
    Batch,
    BatchResult,
    BatchResults,
    Customer,
    CustomerChange,
    CustomerPage,
    CustomerSummary,
    FieldConflict,
    NewCustomer,
    NewUsage,
    NewVoid,
    ProblemDetails,
    Refusal,
    RefusalCount,
    RefusalCounts,
    RefusalPage,
    Summary,
    SummaryGroup,
    SummaryPage,
    SummaryTotal,
    UsagePage,
    UsageRecord,
    VoidedUsage,
)
from billing_service.ledger.api_keys import CreatedKey, Key, KeyPage, NewKey

_BEGIN, _END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
_AT = datetime(2026, 11, 2, 10, 30, tzinfo=UTC)
_USAGE: NewUsage[str] = NewUsage(
    customer_id="acme",
    service="storage",
    units_consumed="1.5",
    price_per_unit="0.02",
    event_id="volume-17/2026-11-02",
    occurred_at=_AT,
)
_SENT = msgspec.json.encode(_USAGE)
_RECORD = decode_usage(_SENT, datetime(2026, 11, 2, 10, 30, 1, tzinfo=UTC))
_CUSTOMER = Customer(id="acme", name="Acme", created_at=_BEGIN, updated_at=_BEGIN)
_VOIDED: VoidedUsage[str] = VoidedUsage(
    **(msgspec.structs.asdict(_RECORD) | {"voided_at": datetime(2026, 11, 3, 9, 0, tzinfo=UTC)}),
    void_reason="measured twice",
    voided_by="bk_0123456789abcdef",
    voided_for="Bob",
)
_KEY = Key(
    id="0123456789abcdef",
    name="nightly job",
    scopes=("usage:write",),
    customer_id="acme",
    created_at=_BEGIN,
    expires_at=None,
    revoked_at=None,
    last_used_at=None,
)
_GROUP: SummaryGroup[str] = SummaryGroup(service="storage", day="2026-11-02", records=1, units="1.5", amount="0.03")
_SUM: SummaryTotal[str] = SummaryTotal(records=1, units="1.5", amount="0.03")
_LINE: StatementLine[str] = StatementLine(
    service="storage", price_per_unit="0.02", records=1, units="1.5", amount="0.03"
)
_HASH = record_hash(_RECORD)
_PROOF = inclusion_proof(
    _RECORD, _HASH, [_HASH], [PieceRoot(datetime(2026, 11, 2, 9, 0, tzinfo=UTC), 1, tree_root([_HASH]))], 0
)
_TOTAL: StatementTotal[str] = StatementTotal(records=1, amount="0.03", rounded="0.03")
_STATEMENT: Statement[str] = Statement(
    customer_id="acme",
    customer_name="Acme",
    month="2026-11",
    timezone="UTC",
    from_=_BEGIN,
    to=_END,
    currency="USD",
    rounding=Rounding(mode="half_up", minor_unit=2),
    status="issued",
    number=1,
    as_of=_END,
    issued_at=_END,
    digest=_PROOF.digest,
    digest_kind="merkle.v1",
    lines=[_LINE],
    total=_TOTAL,
    late=[],
    voided=StatementVoids(data=[], more=False, total=VoidedTotal(records=0, amount="0")),
)
_STATEMENT_SUMMARY: StatementSummary[str] = StatementSummary(
    customer_id="acme",
    customer_name="Acme",
    month="2026-11",
    timezone="UTC",
    currency="USD",
    status="issued",
    number=1,
    digest=_PROOF.digest,
    issued_at=_END,
    total=_TOTAL,
)
_ISSUED: IssuedStatement[str] = IssuedStatement(
    customer_id="acme",
    number=1,
    month="2026-11",
    timezone="UTC",
    digest=_PROOF.digest,
    issued_at=_END,
    issued_by="bk_0123456789abcdef",
    total=_TOTAL,
)
_DUPLICATE = problem(
    "duplicate_record", "This usage is recorded already.", request_id=_RECORD.request_id, existing=_RECORD
)


_CONFLICT = FieldConflict(field="unitsConsumed", recorded="1.5", submitted="2")
_REFUSAL = Refusal(
    id="019a44f2-3c00-7000-8000-000000000000",
    refused_at=_AT,
    code="event_id_conflict",
    customer_id="acme",
    submitted_by="bk_0123456789abcdef",
    request_id=_RECORD.request_id,
    event_id=_RECORD.event_id,
    errors=None,
    conflicts=[_CONFLICT],
    submitted=_SENT.decode().replace("1.5", "2"),
)


class PathParameter(NamedTuple):
    description: str
    example: str


IDS: Mapping[str, PathParameter] = {
    "customer_id": PathParameter("The customer's id.", "acme"),
    "request_id": PathParameter("The record's request id.", _RECORD.request_id),
    "statement": PathParameter("The number of the statement, or its digest.", "1"),
    "key_id": PathParameter("The key's id, as the list of keys shows it.", _KEY.id),
}
"""Path parameters by their names in routes."""

BODIES: Mapping[type, Any] = {
    NewUsage: _USAGE,
    Batch: Batch(records=[Raw(_SENT)]),
    NewCustomer: NewCustomer(name="Acme", id="acme"),
    CustomerChange: CustomerChange(name="Acme Ltd"),
    NewVoid: NewVoid(reason="measured twice", voided_for="Bob"),
    NewStatement: NewStatement(month="2026-11"),
    NewStatements: NewStatements(month="2026-11"),
    NewKey: NewKey(name="nightly job", scopes=("usage:write",), customer_id="acme"),
}
"""Request bodies by their struct."""

ANSWERS: Mapping[type, Any] = {
    Key: _KEY,
    KeyPage: KeyPage(data=[_KEY], next_cursor=None),
    CreatedKey: CreatedKey.of(_KEY, f"bk_{_KEY.id}_{'0' * 64}"),
    Customer: _CUSTOMER,
    CustomerPage: CustomerPage(data=[_CUSTOMER], next_cursor=None),
    UsageRecord: _RECORD,
    UsagePage: UsagePage(data=[_RECORD], next_cursor=None),
    VoidedUsage: _VOIDED,
    BatchResults: BatchResults(
        results=[BatchResult(outcome="recorded", record=_RECORD), BatchResult(outcome="duplicate", problem=_DUPLICATE)]
    ),
    RefusalPage: RefusalPage(data=[_REFUSAL], next_cursor=None),
    RefusalCounts: RefusalCounts(
        data=[
            RefusalCount(submitted_by=_REFUSAL.submitted_by, code="event_id_conflict", refusals=1, last_refused_at=_AT)
        ]
    ),
    Summary: Summary(from_=_BEGIN, to=_END, timezone="UTC", currency="USD", groups=[_GROUP], total=_SUM),
    SummaryPage: SummaryPage(
        from_=_BEGIN,
        to=_END,
        timezone="UTC",
        currency="USD",
        data=[CustomerSummary(customer_id="acme", groups=[_GROUP], total=_SUM)],
        next_cursor=None,
    ),
    Statement: _STATEMENT,
    StatementSummaries: StatementSummaries(data=[_STATEMENT_SUMMARY], next_cursor=None),
    IssuedStatements: IssuedStatements(data=[_ISSUED], next_cursor=None),
    IssueProgress: IssueProgress(issued=[_ISSUED], unchanged=0, failed=[], preparing=None, next_cursor=None),
    StatementProgress: StatementProgress(records=1_000_000, prepared=250_000),
    InclusionProof: _PROOF,
    JsonWebKeySet: JsonWebKeySet(
        keys=[
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": "0aqJNw_twaTgtT7tYItteOX9TLoChktSsB8zHEsDj58",
                "kid": "l-UGDXe1LeoJxtSTpLGmiURQrqEUF5DXSklCzYk7EIM",
                "use": "sig",
                "alg": "Ed25519",
            }
        ]
    ),
}
"""Response bodies by their struct."""


def problem_example(code: str) -> ProblemDetails[str]:
    """An example of a problem with this code."""
    match code:
        case "validation_error":
            return invalid_input("/pricePerUnit", "must not be negative").details
        case "summary_too_large":
            return problem(
                code, "There is too much usage to add it up by model. Ask for a shorter time with from and to."
            )
        case "duplicate_record":
            return _DUPLICATE
        case "event_id_conflict":
            return problem(
                code,
                "An event id names one usage; correct it under a new event id.",
                request_id=_RECORD.request_id,
                existing=_RECORD,
                conflicts=[_CONFLICT],
            )
    return problem(code, KINDS[code].title + ".")
