"""The vectors of request ids that ship with the client, told by a server."""

import json
from typing import Any

from tests.calls import Answer, exchange, json_request, usage
from tests.client.contract.test_identity import VECTORS
from tests.services import Service


def send(service: Service, path: str, body: Any) -> Answer:
    return exchange(service, json_request(path, json.dumps(body).encode()))


def test_a_server_gives_the_request_id_of_each_vector(service: Service) -> None:
    given, expected = {}, {}
    for number, vector in enumerate(VECTORS["usage"] + VECTORS["dimensions"] + VECTORS["events"]):
        report = usage() | vector["input"]
        send(service, "/customers", {"id": report["customerId"], "name": "Acme"})
        answer = send(service, "/usage", report)
        assert answer.status in (201, 409, 422)  # some vectors are the same usage, or the same event
        given[number, vector["description"]] = answer.body["requestId"]
        expected[number, vector["description"]] = vector["requestId"]
    assert given == expected
