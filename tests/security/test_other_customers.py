"""A key that is bound to one customer reaches nothing of another's, by whatever operation there is.

The requests are made by position: the first id in an address is the other customer's, whatever the service calls it.
"""

import json

import pytest

from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from tests.calls import Answer, exchange, json_request, usage
from tests.operations import Target, examples, name_of, send_example
from tests.security.conftest import SECRETS, Victim, everything_of_theirs
from tests.services import Service

GUARDED = [operation for operation in OPERATIONS if operation.scope is not None]


def tells_nothing(answer: Answer) -> bool:
    text = answer.body.decode() if isinstance(answer.body, bytes) else json.dumps(answer.body)
    return not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("operation", GUARDED, ids=name_of)
def test_an_operation_reaches_nothing_of_another_customers(
    service: Service, victim: Victim, mine: str, operation: Operation
) -> None:
    before = everything_of_theirs(service.settings.database_url)
    for request_id in (victim.request_id, victim.voided_id, "0" * 64):
        answers = []
        for customer_id in (victim.customer_id, "nobody"):
            tried = examples(operation, Target(customer_id, request_id))
            answers.append([send_example(service, request, mine) for request in tried])
        assert all(tells_nothing(answer) for answer in answers[0]), answers[0]
        # nor whether there is such a customer
        statuses = [[answer.status for answer in tried] for tried in answers]
        assert statuses[0] == statuses[1]
        assert "{" not in operation.path or set(statuses[0]) == {403}
    assert everything_of_theirs(service.settings.database_url) == before


def test_the_operation_would_tell_all_to_whom_it_may(service: Service, victim: Victim, admin: str) -> None:
    """The test above looks for the right words: each of them is told by some operation."""
    told = ""
    for operation in GUARDED:
        if operation.method == "GET":
            for request in examples(operation, Target(victim.customer_id, victim.request_id, victim.digest)):
                answer = send_example(service, request, admin)
                told += answer.body.decode() if isinstance(answer.body, bytes) else json.dumps(answer.body)
    assert [secret for secret in SECRETS if secret not in told] == []


def test_a_batch_is_judged_record_by_record(service: Service, victim: Victim, mine: str) -> None:
    before = everything_of_theirs(service.settings.database_url)
    repeated = usage(customerId="theirs", eventId=f"{SECRETS[2]} 0")
    records = [repeated, usage(customerId="mine", eventId="1"), usage(customerId="theirs", eventId="new")]
    for query in ("?dryRun=true", ""):
        answer = exchange(
            service, json_request(f"/usage/batch{query}", json.dumps({"records": records}).encode(), mine)
        )
        results = answer.require(200)["results"]
        assert [result.get("problem", {}).get("code") for result in results] == ["forbidden", None, "forbidden"]
        assert tells_nothing(answer)
    assert everything_of_theirs(service.settings.database_url) == before
