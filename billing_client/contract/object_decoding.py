"""One JSON object to a struct. The fast path is one msgspec call; only where it fails is the object read again, member
by member, to name every fault rather than the first."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, TypeVar, get_origin, get_type_hints

import msgspec
from msgspec import Raw, Struct

from billing_client.contract.json_scanning import members, repeats_a_name
from billing_client.contract.problems import ProblemError, excerpt, invalid
from billing_client.contract.wire import FieldError, readable

T = TypeVar("T", bound=Struct)
Check = Callable[[Raw | memoryview], object]

MAX_ERRORS = 100  # that are named of one object
MALFORMED = (ValueError, RecursionError)  # msgspec's and the codec's errors are ValueErrors


class ObjectDecoder(Generic[T]):
    """Decodes one JSON object into a struct. Raises ProblemError with its faults, at most MAX_ERRORS of them.

    `struct` is the type to decode into. `checks` replace msgspec's check of the members that they name (by their names
    in JSON): each is given the member's JSON, and raises ValueError where it is not valid; FaultsError where it can say
    which of its parts are not.
    """

    def __init__(self, struct: Any, checks: Mapping[str, Check] | None = None) -> None:
        fields = msgspec.structs.fields(struct)
        hints = get_type_hints(get_origin(struct) or struct, include_extras=True)
        self._decode = msgspec.json.Decoder(struct).decode
        self._required = {field.encode_name for field in fields if field.required}
        self._checks: dict[str, Check] = {
            field.encode_name: msgspec.json.Decoder(hints[field.name]).decode
            for field in fields
            if field.encode_name not in (checks or {})
        } | dict(checks or {})
        self._quoted_names = [f'"{name}"'.encode() for name in self._checks]

    def __call__(self, data: bytes) -> T:
        with suppress(*MALFORMED):  # whose message may hold the name of a member as long as the body
            return self.decode(data)
        raise self.refusal(data)

    def decode(self, data: bytes) -> T:
        """Decode an object, or raise ValueError or RecursionError at its first fault; `refusal` names them all."""
        value: T = self._decode(data)
        if self._may_repeat_a_name(data) and repeats_a_name(data):
            raise ValueError("a name stands more than once")
        return value

    def refusal(
        self, data: bytes, max_errors: int = MAX_ERRORS, checks: Mapping[str, Check] | None = None
    ) -> ProblemError:
        """The error to raise for data that is known to be faulty; it names at most so many faults.

        `checks` are more of those that the decoder was made with.
        """
        return ProblemError(invalid(self._faults(data, max_errors, self._checks | dict(checks or {})), max_errors))

    def _may_repeat_a_name(self, data: bytes) -> bool:
        """Cheap and never wrong when it says no: without escapes, each name stands in the bytes as it is."""
        return b"\\" in data or any(data.count(name) > 1 for name in self._quoted_names)

    def _faults(self, data: bytes, max_errors: int, checks: Mapping[str, Check]) -> list[FieldError]:
        # of more members than these at least one is no field, or stands more than once
        enough = len(checks) + max_errors
        try:
            _check_syntax(data)
            found = list(islice(members(data), enough + 1))
        except MALFORMED as error:
            return [FieldError(pointer="", message=readable(error))]
        values = dict(found)
        missing = self._required - values.keys() if len(found) <= enough else set[str]()
        errors = [FieldError(pointer=pointer_to(name), message="is required") for name in sorted(missing)]
        for name, raw in values.items():
            if len(errors) >= max_errors:
                return errors
            errors += _member_faults(name, checks.get(name), raw)
        counts = Counter(name for name, _ in found)
        repeated = [name for name in values if counts[name] > 1]
        return errors + [FieldError(pointer=pointer_to(name), message="stands more than once") for name in repeated]


class FaultsError(ValueError):
    """The faults of the parts of a member: each with its JSON Pointer from there, and in words."""

    def __init__(self, faults: list[FieldError]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in faults))
        self.faults = faults


def _member_faults(name: str, check: Check | None, raw: memoryview) -> list[FieldError]:
    """What is wrong with a member; without a check it is no field."""
    pointer = pointer_to(name)
    if check is None:
        return [FieldError(pointer=pointer, message="is not a field of this object")]
    try:
        check(raw)
    except FaultsError as error:
        return [FieldError(pointer=pointer + each.pointer, message=each.message) for each in error.faults]
    except MALFORMED as error:
        return [FieldError(pointer=pointer, message=readable(error))]
    return []


class _Object(Struct):
    """Any object."""


_check_syntax = msgspec.json.Decoder(_Object).decode


def pointer_to(name: str) -> str:
    """The JSON Pointer (RFC 6901) to a member. A long name, which is no field's, is cut."""
    return "/" + excerpt(name).replace("~", "~0").replace("/", "~1")
