"""The examples, run as their readers run them: as processes, against a real service."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNFIT_FOR_READERS = ("Traceback", "ResourceWarning", "never retrieved", "destroyed but it is pending")


def run_example(example: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run an example to its end; whatever happens to it, it shows no traceback and leaves nothing open."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    process = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", ROOT / "examples" / example, *arguments],
        env=inherited | {"COLUMNS": "200", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert not any(words in process.stderr for words in UNFIT_FOR_READERS), process.stderr
    return process
