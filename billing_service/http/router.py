"""Finds the operation that an address and a method name.

Addresses are matched as they were sent, segment by segment, so that an id may hold an encoded slash; ids are decoded
afterwards. Starlette's router matches decoded paths, and needed three layers around it to do this.
"""

from collections.abc import Iterable
from typing import NoReturn

from msgspec import Struct, field

from billing_client.contract.request_parsing import read_id
from billing_service.http.errors import ProblemError, problem
from billing_service.http.operations import Operation


class _Node(Struct, eq=False):
    """What may follow a part of an address: fixed segments, or an id."""

    fixed: dict[bytes, "_Node"] = field(default_factory=dict)
    id_name: str = ""
    after_id: "_Node | None" = None
    operations: dict[str, Operation] = field(default_factory=dict)


class Router:
    """The operations by address and method. Raises ValueError for two of the same, or two names of the same id."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._root = _Node()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        node = self._root
        for segment in operation.path.split("/")[1:]:
            if segment.startswith("{"):
                node.after_id = node.after_id or _Node()
                node.id_name = node.id_name or segment[1:-1]
                if node.id_name != segment[1:-1]:
                    raise ValueError(f"{operation.path}: the id is {{{node.id_name}}} elsewhere")
                node = node.after_id
            else:
                node = node.fixed.setdefault(segment.encode(), _Node())
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        for method in methods:
            if node.operations.setdefault(method, operation) is not operation:
                raise ValueError(f"there are two operations {method} {operation.path}")

    def find(self, method: str, raw_path: bytes) -> tuple[Operation, dict[str, str]]:
        """The operation, and the ids in the address, percent-decoded, by their names in the operation's path.

        Raises ProblemError: 400 for an id that is not valid, 404 for an unknown address, 405 for a method that the
        address does not take.
        """
        node = self._root
        ids: dict[str, str] = {}
        for segment in raw_path.split(b"/")[1:]:
            if segment in node.fixed:
                node = node.fixed[segment]
            elif segment and node.after_id is not None:
                ids[node.id_name] = read_id(segment.decode("ascii", "replace"))
                node = node.after_id
            else:
                raise ProblemError(problem("not_found", "Not Found."))
        operation = node.operations.get(method)
        if operation is None:
            _refuse_method(node)
        return operation, ids


def _refuse_method(node: _Node) -> NoReturn:
    if not node.operations:
        raise ProblemError(problem("not_found", "Not Found."))
    allowed = ", ".join(sorted(node.operations))  # RFC 9110, section 15.5.6
    raise ProblemError(problem("method_not_allowed", "Method Not Allowed."), {"Allow": allowed})
