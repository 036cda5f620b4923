"""The documentation as a site: it builds without a warning and needs no other host."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import billing_client

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(https?://[^\s\">]+)")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

pytestmark = pytest.mark.skipif(find_spec("zensical") is None, reason="not installed: pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the site, and what its build said."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(Path(billing_client.__file__).parent, folder / "billing_client")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = ESCAPES.sub("", done.stdout + done.stderr)
    assert done.returncode == 0, output
    return folder / "site", output


def test_no_docstring_is_misread(built: tuple[Path, str]) -> None:
    """Griffe warns of parameters that are not there, for example; strict mode does not count its warnings."""
    assert "griffe" not in built[1], built[1]


def test_the_reference_has_every_method_of_the_client(built: tuple[Path, str]) -> None:
    page = (built[0] / "reference/client/index.html").read_text("utf-8")
    for method in ("record_usage", "record_usages", "recorder", "void_usage", "statement"):
        assert f'id="billing_client.BillingSystemClient.{method}"' in page


def test_the_site_loads_nothing_from_another_host(built: tuple[Path, str]) -> None:
    pages = list(built[0].rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(https?://[^\s\">]+)", page.read_text("utf-8")
        )
        assert not loaded, page
