"""`billing completion`: the shell completes commands, with what is installed, once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import billing

COMPLETES = """
source ~/.bashrc
COMP_WORDS=(billing customers re) COMP_CWORD=2
_billing_completion billing
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("shell", "starts"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_it_is_installed_once_in_the_file_that_the_shell_reads(shell: str, starts: str, tmp_path: Path) -> None:
    (tmp_path / starts).write_text("export BEFORE=1")
    environment = {"HOME": str(tmp_path), "SHELL": f"/usr/bin/{shell}"}
    for _ in range(2):
        done = billing("completion", "--install", **environment)
        assert (done.returncode, done.stderr) == (0, "")
    first, *rest = (tmp_path / starts).read_text().splitlines()
    assert first == "export BEFORE=1"
    script = tmp_path / f".local/share/billing/completion.{shell}"
    assert rest[-1] == f'. "{script}"  # completion of billing'
    assert len(rest) == (2 if shell == "zsh" else 1)
    assert billing("completion", **environment).stdout == script.read_text() + "\n"


def test_fish_reads_its_folder_by_itself(tmp_path: Path) -> None:
    done = billing("completion", "--install", "--shell", "fish", HOME=str(tmp_path))
    assert done.stdout.splitlines()[0].endswith("completions/billing.fish")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["billing.fish"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_what_was_installed(tmp_path: Path) -> None:
    billing("completion", "--install", "--shell", "bash", HOME=str(tmp_path))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "billing").symlink_to(Path(sys.executable).parent / "billing")
    environment = {"HOME": str(tmp_path), "PATH": f"{bin_}:/usr/bin:/bin"}
    command = ["bash", "--norc", "-c", COMPLETES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "rename\n", "")


def test_a_shell_that_is_not_known_is_refused() -> None:
    refused = billing("completion", SHELL="/bin/tcsh")
    assert refused.returncode == 2
    assert "'tcsh' is none of bash, zsh, fish" in refused.stderr
