"""The documents, beside what they describe: nothing is missing in a table, no link is dead, every document is found."""

import json
import re
from pathlib import Path

import pytest

from billing_client.contract.problems import KINDS
from billing_service.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").rglob("*.md")]
UNSET = {"DATABASE_URL", "BILLING_DATA_DIR"}  # the default depends on where it runs


def section(title: str) -> str:
    """What stands under this heading of the README, up to the next one."""
    return README.partition(f"\n{title}\n")[2].partition("\n#")[0]


def variables() -> dict[str, object]:
    """Each setting by the name of its variable, with its default."""
    return dict(zip(Settings.__struct_encode_fields__, Settings.__struct_defaults__, strict=True))


def shown(default: object) -> str:
    """A default as an operator writes it."""
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def table(title: str) -> dict[str, str]:
    """The lines of the README's table under this heading, by each name in code in the first column."""
    rows = re.findall(r"^\| (`.*?) \|(.*)$", section(title), re.MULTILINE)
    return {name: rest for first, rest in rows for name in re.findall(r"`([^`]+)`", first)}


def test_the_readme_lists_every_setting_with_its_default() -> None:
    described = table("## Configuration")
    assert set(described) == set(variables())
    for name, default in variables().items():
        if name not in UNSET:
            assert described[name].partition("|")[0].strip(" `") == shown(default), name


def test_the_example_of_an_env_file_lists_every_setting_with_its_default() -> None:
    described = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(described) - {"POSTGRES_PASSWORD"} == set(variables()) - {"BILLING_ENV"}
    for name, value in described.items():
        default = variables().get(name)  # where there is none, the value is an example
        assert default is None or value == shown(default), name


def test_the_readme_lists_every_problem_with_its_status() -> None:
    statuses = {code: int(rest.partition("|")[0]) for code, rest in table("### Errors").items() if code in KINDS}
    assert statuses == {code: kind.status for code, kind in KINDS.items()}


def test_the_readme_lists_every_endpoint() -> None:
    named = re.findall(r"`(GET|POST|PATCH) (/[^`?]*)[`?]", section("## Endpoints"))
    told = {(method, re.sub(r"\{.*?\}", "{}", path)) for method, path in named}
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    served = {(method.upper(), re.sub(r"\{.*?\}", "{}", path)) for path in paths for method in paths[path]}
    assert told == served | {("GET", "/docs")}


def anchors(document: Path) -> set[str]:
    """The fragments that name a heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[tuple[Path, str]]:
    """The files of this project that a document points to, each with the fragment."""
    targets = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text())
    return [((document.parent / path).resolve() if path else document, fragment) for path, fragment in targets]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_of_a_document_is_dead(document: Path) -> None:
    for target, fragment in links(document):
        assert target.exists(), target
        assert not fragment or fragment in anchors(target), f"{target}#{fragment}"


def test_every_document_is_found_from_the_readme() -> None:
    assert set(DOCUMENTS[1:]) <= {target for target, _ in links(DOCUMENTS[0])}
