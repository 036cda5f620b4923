"""The router: finds the operation for a path and a method."""

import pytest
from starlette.responses import Response

from billing_client.contract.problems import ProblemError
from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.router import Router


async def _handler(_: ApiRequest, __: object) -> Response:
    return Response()


def operation(path: str, **changes: object) -> Operation:
    given = {"method": "GET", "scope": None, "reach": "open", "tag": "service"} | changes
    return Operation(path=path, handler=_handler, **given)  # type: ignore[arg-type]  # each is one of its literals


def refusal(router: Router, method: str, path: bytes) -> tuple[int, str | None]:
    with pytest.raises(ProblemError) as caught:
        router.find(path)[0].operation(method)
    return caught.value.details.status, (caught.value.headers or {}).get("Allow")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_each_operation_is_found_at_its_address(operation: Operation) -> None:
    address, _ = Router(OPERATIONS).find(operation.path.replace("{", "").replace("}", "").encode())
    assert address.path == operation.path
    assert address.operation(operation.method) is operation


def test_an_id_is_one_segment_percent_decoded() -> None:
    router = Router([operation("/a/{x}/b/{y}")])
    assert router.find(b"/a/one%2Ftwo/b/%C3%BC")[1] == {"x": "one/two", "y": "ü"}
    for bad in (b"/a/%ff/b/y", b"/a/%00/b/y"):
        with pytest.raises(ProblemError, match=r"path/id"):
            router.find(bad)


@pytest.mark.parametrize(
    "path", [b"", b"*", b"/", b"/a", b"/a/", b"/a//b/y", b"/a/x/b/y/", b"/a/x/b/y/z", b"//a/x/b/y"]
)
def test_any_other_address_is_not_found(path: bytes) -> None:
    assert refusal(Router([operation("/a/{x}/b/{y}")]), "GET", path) == (404, None)


def test_a_fixed_segment_goes_before_an_id() -> None:
    fixed, named = operation("/a/b"), operation("/a/{x}")
    router = Router([named, fixed])
    assert router.find(b"/a/b")[0].operation("GET") is fixed
    assert router.find(b"/a/c")[0].operation("GET") is named


def test_other_methods_are_refused_with_those_that_are_taken() -> None:
    router = Router([operation("/a"), operation("/a", method="POST")])
    assert refusal(router, "DELETE", b"/a") == (405, "GET, HEAD, POST")
    assert router.find(b"/a")[0].operation("HEAD").method == "GET"


def test_two_operations_of_one_address_and_method_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two operations GET /a"):
        Router([operation("/a"), operation("/a")])


def test_two_names_of_one_id_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"the id is \{x\} elsewhere"):
        Router([operation("/a/{x}"), operation("/a/{y}/b")])


@pytest.mark.parametrize(
    ("path", "scope", "reach"),
    [
        ("/customers/{customer_id}", "usage:read", "handler"),
        ("/customers/{owner_id}", "usage:read", "customer"),
        ("/customers/{customer_id}", None, "customer"),
        ("/usage", "usage:read", "open"),
        ("/usage", None, "handler"),
    ],
)
def test_an_operation_whose_reach_does_not_fit_is_a_mistake(path: str, scope: str | None, reach: str) -> None:
    with pytest.raises(ValueError, match="reach must be"):
        operation(path, scope=scope, reach=reach)
