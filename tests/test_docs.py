"""The documentation, compared with what it describes: tables are complete, links work, every page can be found."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import billing_client
import billing_client.asgi
import billing_client.blocking
import billing_client.metering
import billing_client.testing
import billing_service
from billing_client import BillingError
from billing_client.contract.problems import KINDS
from billing_service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
API = DOCS / "reference/http-api.md"
CONFIGURATION = DOCS / "reference/configuration.md"
FAILURES = DOCS / "operations/failures.md"
CLIENT = DOCS / "reference/client.md"
PAGES = sorted(DOCS.rglob("*.md"))
PROJECT = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
MEASURED = [ROOT / name for name in ("benchmarks/README.md", "benchmarks/results.md", "tests/faults/README.md")]
DOCUMENTS = [README, *PROJECT, *MEASURED, *PAGES]
ALSO_IN_ASGI = "billing_client.asgi.meter"  # it is that of billing_client.metering
UNSET = {"DATABASE_URL", "BILLING_DATA_DIR"}  # the default depends on where the service runs


def section(document: Path, title: str) -> str:
    """The text under a heading, up to the next one. Without a title: all of the document."""
    return document.read_text("utf-8").partition(f"\n{title}\n")[2].partition("\n#")[0]


def variables() -> dict[str, object]:
    """The default of each setting, by the name of its variable."""
    return dict(zip(Settings.__struct_encode_fields__, Settings.__struct_defaults__, strict=True))


def shown(default: object) -> str:
    """A default as an operator writes it."""
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def table(text: str) -> dict[str, str]:
    """The rest of each row of the tables in a text, by each name in code in the first column."""
    rows = re.findall(r"^\| (`.*?) \|(.*)$", text, re.MULTILINE)
    return {name: rest for first, rest in rows for name in re.findall(r"`([^`]+)`", first)}


def test_every_setting_is_documented_with_its_default() -> None:
    described = table(CONFIGURATION.read_text("utf-8"))
    assert set(described) == set(variables())
    for name, default in variables().items():
        if name not in UNSET:
            assert described[name].partition("|")[0].strip(" `") == shown(default), name


def test_the_example_of_an_env_file_lists_every_setting_with_its_default() -> None:
    described = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(described) - {"POSTGRES_PASSWORD"} == set(variables()) - {"BILLING_ENV"}
    for name, value in described.items():
        default = variables().get(name)  # if there is none, the value is an example
        assert default is None or value == shown(default), name


def test_every_problem_is_documented_with_its_status() -> None:
    documented = {code: int(rest.partition("|")[0]) for code, rest in table(section(API, "## Errors")).items()}
    assert documented == {code: kind.status for code, kind in KINDS.items()}


def test_every_endpoint_is_documented() -> None:
    named = re.findall(r"`(GET|POST|PATCH|DELETE) (/[^`?]*)[`?]", section(API, "## Endpoints"))
    told = {(method, re.sub(r"\{.*?\}", "{}", path)) for method, path in named}
    paths = json.loads((DOCS / "openapi.json").read_text())["paths"]
    served = {(method.upper(), re.sub(r"\{.*?\}", "{}", path)) for path in paths for method in paths[path]}
    assert told == served | {("GET", "/docs")}


def test_the_reference_shows_every_public_name_once() -> None:
    documented = re.findall(r"^::: ([\w.]+)$", CLIENT.read_text("utf-8"), re.MULTILINE)
    public = [f"billing_client.{name}" for name in billing_client.__all__ if name != "__version__"]
    for room in (billing_client.asgi, billing_client.blocking, billing_client.metering, billing_client.testing):
        public += [f"{room.__name__}.{name}" for name in room.__all__ if f"{room.__name__}.{name}" != ALSO_IN_ASGI]
    public.append("billing_client.metering.litellm.UsageCallback")
    assert sorted(documented) == sorted(public)


def test_the_reference_has_the_tree_of_errors() -> None:
    rows = re.findall(r"^\| (?:`(\w+)` ← )?`(\w+Error)` \|", section(CLIENT, "## Errors"), re.MULTILINE)
    public = [getattr(billing_client, name) for name in billing_client.__all__ if name.endswith("Error")]
    errors = [error for error in public if issubclass(error, BillingError) and error is not BillingError]
    assert {name: base or "BillingError" for base, name in rows} == {
        error.__name__: error.__bases__[0].__name__ for error in errors
    }


def texts_of(folder: Path) -> Iterator[str]:
    """The strings in a package's source; `…` stands for the values in an f-string."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_of_troubleshooting_are_those_of_the_service() -> None:
    messages = [*texts_of(Path(billing_service.__file__).parent), *KINDS]
    quoted = re.findall(r"^\| `(.+?)`", section(FAILURES, "## Troubleshooting"), re.MULTILINE)
    assert len(quoted) > 8
    for quote in quoted:
        assert any(quote.rstrip("…").strip() in message for message in messages), quote


def test_the_figures_of_the_readme_are_measured() -> None:
    measured = "".join(document.read_text("utf-8") for document in MEASURED)
    figures = re.findall(r"\*\*([\d.,]+)\*\*", section(README, "## What makes it different"))
    assert len(figures) > 8
    for figure in figures:
        assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)", measured), f"{figure}: no table has it"


def test_make_runs_the_tests_as_the_readme_does() -> None:
    command = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)[1].splitlines()[-1]
    assert f"\n\t{command}\n" in (ROOT / "Makefile").read_text("utf-8")


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {target for document in DOCUMENTS for target in re.findall(r"`make (\w+)`", document.read_text("utf-8"))}
    assert {"fmt", "check", "test", "bench", "faults", "docs"} <= targets
    assert named <= targets


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 180


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[tuple[Path, str]]:
    """The files of this project that a document links to, each with the fragment."""
    targets = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text("utf-8"))
    return [((document.parent / path).resolve() if path else document, fragment) for path, fragment in targets]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_works(document: Path) -> None:
    for target, fragment in links(document):
        assert target.exists(), target
        assert not fragment or fragment in anchors(target), f"{target}#{fragment}"


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_links_only_to_what_the_site_has(document: Path) -> None:
    for target, _ in links(document):
        assert target.is_relative_to(DOCS), target


def test_every_document_is_linked_from_the_readme() -> None:
    reached, waiting = {README}, [README]
    while waiting:
        found = {target for target, _ in links(waiting.pop()) if target.suffix == ".md"} - reached
        reached |= found
        waiting += found
    assert set(DOCUMENTS) - {DOCS / "index.md"} <= reached


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a navigation, from top to bottom."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from leaves(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_what_the_examples_write_does_not_dirty_a_checkout() -> None:
    text = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    names = set(re.findall(r"""(?:-o |--output |spool=")([\w-]+\.(?!ts\b)\w+)""", text))
    assert {"usage.db", "usage.parquet", "statement.html"} <= names
    for name in sorted(names):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name
