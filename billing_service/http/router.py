"""Finds the operation for a path and a method.

Paths are matched before percent-decoding, segment by segment, so that an id may contain an encoded slash. Then the ids
are decoded. Starlette's router is not used: it matches decoded paths.
"""

from collections.abc import Iterable

from msgspec import Struct, field

from billing_client.contract.request_parsing import read_id
from billing_service.http.errors import ProblemError, problem
from billing_service.http.operations import Operation


class Address(Struct, eq=False):
    """A position in a path: the fixed segments or the id that may follow, and the operations that end here.

    Attributes:
        path: The path of the operations, with the names of its ids.
        operations: The operations by method.
    """

    fixed: dict[bytes, "Address"] = field(default_factory=dict)
    id_name: str = ""
    after_id: "Address | None" = None
    path: str = ""
    operations: dict[str, Operation] = field(default_factory=dict)

    def operation(self, method: str) -> Operation:
        """The operation of a method. Raises ProblemError (405) for one that the address does not allow."""
        if method not in self.operations:
            allowed = ", ".join(sorted(self.operations))  # RFC 9110, section 15.5.6
            raise ProblemError(problem("method_not_allowed", "Method Not Allowed."), {"Allow": allowed})
        return self.operations[method]


class Router:
    """The operations by path and method."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Add the operations. Raises ValueError if two have the same path and method, or name one id differently."""
        self._root = Address()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        node = self._root
        for segment in operation.path.split("/")[1:]:
            if segment.startswith("{"):
                node.after_id = node.after_id or Address()
                node.id_name = node.id_name or segment[1:-1]
                if node.id_name != segment[1:-1]:
                    raise ValueError(f"{operation.path}: the id is {{{node.id_name}}} elsewhere")
                node = node.after_id
            else:
                node = node.fixed.setdefault(segment.encode(), Address())
        node.path = operation.path
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        for method in methods:
            if node.operations.setdefault(method, operation) is not operation:
                raise ValueError(f"there are two operations {method} {operation.path}")

    def find(self, raw_path: bytes) -> tuple[Address, dict[str, str]]:
        """The address, and the percent-decoded ids in the path by their names in the operation's path.

        Args:
            raw_path: The path as it was sent, without the query.

        Raises:
            ProblemError: 400 for an id that is not valid, 404 for an unknown path.
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
        if not node.operations:
            raise ProblemError(problem("not_found", "Not Found."))
        return node, ids
