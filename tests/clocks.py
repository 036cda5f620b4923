"""Processes whose clock is wrong, by libfaketime: Debian's package `faketime`, Homebrew's `libfaketime`."""

import shutil
import subprocess


def can_be_wrong() -> bool:
    """Whether processes can be given a wrong clock here."""
    return shutil.which("faketime") is not None


def wrong_clock(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off by `offset`, as `-15m` or `+40d`. Its steady clocks are right.

    The program `faketime` only says where its library is: run by it, a server would not get its signals.
    """
    found = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return {"LD_PRELOAD": found.stdout.strip(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
