"""The table in docs/security.md: each line names tests that there are, and each test of this folder is in it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("|")][2:]
REFERENCE = re.compile(r"`([\w/.]+\.py)::(\w+)`")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def file_of(name: str) -> Path:
    return ROOT / name if "/" in name else ROOT / "tests" / "security" / name


def test_each_line_names_tests_that_there_are() -> None:
    assert len(TABLE) > 15
    for line in TABLE:
        named = REFERENCE.findall(line)
        assert named, line
        for file, test in named:
            assert test in functions_of(file_of(file)), (file, test)


def test_each_file_of_this_folder_is_named() -> None:
    named = {file_of(file) for line in TABLE for file, _ in REFERENCE.findall(line)}
    assert {path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)} <= named
