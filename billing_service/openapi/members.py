"""Which members of a JSON object can be absent, and which null: generators of clients make types of it."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_origin

from msgspec import Struct, inspect

_MARKS = re.compile(r"_\w+_$")  # the parameter of a generic struct, in the name of its schema


def describe_members(schemas: dict[str, Any], structs: Iterable[Any]) -> None:
    """Change the schemas of structs so that they say what is sent, and what may be.

    msgspec says of each member without a value that it may be null, and is by default. Clients would send that default.
    A member of a request can be left out; that null is taken for it too is not told. A member of an answer is either
    left out and never null (`omit_defaults`), or always there.
    """
    classes = {cls.__name__: cls for type_ in inspect.multi_type_info(structs) for cls in _classes(type_, set())}
    for name, schema in schemas.items():
        cls = classes.get(_MARKS.sub("", name))
        if cls is None or "properties" not in schema:
            continue
        config, required = cls.__struct_config__, schema["required"]
        may_be_absent = config.forbid_unknown_fields or config.omit_defaults  # a request forbids unknown members
        for member, described in schema["properties"].items():
            if not may_be_absent and "default" in described:  # UNSET, which is left out, is no default
                required.append(member)
            if described.get("default", ...) is None:
                del described["default"]
                if may_be_absent:
                    schema["properties"][member] = without_null(described)


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that can be left out, but is not null."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    if len(kinds) > 1:
        return schema | {"anyOf": kinds}
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0]


def name_types_of_enums(schema: Any) -> None:
    """Say of each set of texts that they are texts: some generators take no type for any type."""
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        name_types_of_enums(each)
    values = schema.get("enum") if isinstance(schema, dict) and "type" not in schema else None
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        schema["type"] = "string"


def _classes(value: Any, seen: set[type[Struct]]) -> Iterator[type[Struct]]:
    """The structs that a type is made of."""
    if isinstance(value, tuple):
        for each in value:
            yield from _classes(each, seen)
    elif isinstance(value, inspect.Type | inspect.Field):
        if isinstance(value, inspect.StructType):
            if value.cls in seen:
                return
            seen.add(value.cls)
            yield get_origin(value.cls) or value.cls
        for name in value.__struct_fields__:
            yield from _classes(getattr(value, name), seen)
