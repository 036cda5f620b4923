"""The drawing of the house in CONTRIBUTING.md, compared with the packages and the import rules."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import billing_client
import billing_service

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
DRAWING = re.search(r"<!-- house: begin -->\n```text\n(.*?)```\n<!-- house: end -->", CONTRIBUTING, re.DOTALL)
PACKAGES = {package.__name__: Path(package.__path__[0]) for package in (billing_client, billing_service)}
INDENT = "    "
COLUMN = 26  # where the descriptions begin


class Line(NamedTuple):
    """A line of the drawing: a room's path ends with a slash, such as `billing_service/http/`."""

    path: str
    text: str


def drawn() -> list[Line]:
    """The rooms and modules in the drawing, from top to bottom."""
    assert DRAWING, "CONTRIBUTING.md has no drawing between <!-- house: begin --> and <!-- house: end -->"
    lines, parents = [], [""]
    for text in filter(None, DRAWING[1].splitlines()):
        match = re.fullmatch(rf"((?:{INDENT})*)(\w+/?)(?:\s+(\S.*))?", text)
        assert match, f"this is no line of a drawing: {text!r}"
        depth, name = len(match[1]) // len(INDENT), match[2]
        if depth == 0:
            parents = [f"{name}/"]
            continue
        assert match[3], f"this line must say what the file is for: {text!r}"
        path = "".join(parents[:depth]) + name
        parents[depth:] = [name] if name.endswith("/") else []
        lines.append(Line(path, text))
    return lines


def built() -> Iterator[str]:
    """The rooms and modules that there are."""
    for name, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if path.name != "__init__.py":
                yield f"{name}/{inner.with_suffix('').as_posix()}"
            elif path.parent != folder:
                yield f"{name}/{inner.parent.as_posix()}/"


def line_for(path: str) -> str:
    """The line that the drawing should have for a module or room; its text is the first line of the docstring."""
    name, _, inner = path.partition("/")
    source = PACKAGES[name] / (f"{inner}__init__.py" if inner.endswith("/") else f"{inner}.py")
    about = (ast.get_docstring(ast.parse(source.read_text("utf-8"))) or "…").splitlines()[0]
    *parents, last = path.rstrip("/").split("/")
    shown = INDENT * len(parents) + last + ("/" if path.endswith("/") else "")
    return f"{shown:<{COLUMN}}{about}"


def test_the_drawing_has_every_room_and_module_once() -> None:
    lines = drawn()
    paths, there = [line.path for line in lines], set(built())
    wrong = [f"remove the line:\n{line.text}" for line in lines if line.path not in there]
    wrong += [f"remove all but one of the lines of {path}" for path in sorted(set(paths)) if paths.count(path) > 1]
    missing = sorted(there - set(paths))
    wrong += [f"add under {path.rstrip('/').rpartition('/')[0]}/ the line:\n{line_for(path)}" for path in missing]
    assert not wrong, "\n".join(["the drawing of the house in CONTRIBUTING.md is not true:", *wrong])


def layers() -> dict[str, list[set[str]]]:
    """The layers of each package that has an import rule, from top to bottom."""
    rules: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return {
        container: [{name.strip(" ()") for name in re.split(r"[|:]", layer)} for layer in rule["layers"]]
        for rule in rules
        if rule["type"] == "layers"
        for container in rule.get("containers", [])
    }


def test_the_order_of_the_drawing_is_the_import_rule() -> None:
    assert "billing_service" in layers()
    for container, order in layers().items():
        prefix = f"{container.replace('.', '/')}/"
        inner = [line.path.removeprefix(prefix) for line in drawn() if line.path.startswith(prefix)]
        rooms = [path.rstrip("/") for path in inner if "/" not in path.rstrip("/")]
        for layer in order:
            here, rooms = set(rooms[: len(layer)]), rooms[len(layer) :]
            assert here == layer, (
                f"{container}: the import rule has {sorted(layer)} where the drawing has {sorted(here)}"
            )
        assert not rooms, f"{container}: no import rule names {rooms}"


def test_every_file_that_contributing_names_is_there() -> None:
    named = re.findall(r"`((?:billing_\w+|sql|tests|docs)/[\w./-]+)`", CONTRIBUTING)
    assert len(named) > 15
    for name in named:
        package, _, inner = name.partition("/")
        assert (PACKAGES.get(package, ROOT / package) / inner).exists(), f"CONTRIBUTING.md names {name}"
