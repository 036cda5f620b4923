"""Tables on a narrow terminal: no number and no time is ever broken over two lines."""

import json
import os
import pty
import re
import threading
import unicodedata
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.table import Column

from billing_client.cli.output import to_json
from billing_client.cli.tables import number_column, print_table, text_column, whole_column
from billing_client.contract.wire import printable
from tests.calls import usage
from tests.cli import given_customer, given_usage, start
from tests.services import Service

AMOUNT = "1512905.123456789012345678"
ROWS = [("2026-11-01", "storage of many volumes", "31", AMOUNT), ("2026-11-02", "compute", "7", "0.5")]


def shown(width: int, columns: Sequence[Column], rows: Sequence[Sequence[str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal of this width gets."""
    monkeypatch.setenv("COLUMNS", str(width))
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as output, redirect_stdout(output):
        print_table(columns, rows)
    read: list[bytes] = []
    drain(controller, read)
    return re.sub("\x1b\\[[0-9;]*m", "", b"".join(read).decode()).replace("\r\n", "\n")


def columns() -> list[Column]:
    return [whole_column("day"), text_column("service"), number_column("records"), number_column("amount (USD)")]


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 80, 200])
def test_numbers_and_times_are_never_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(width, columns(), ROWS, monkeypatch).splitlines()
    for whole in (AMOUNT, "2026-11-01", "2026-11-02"):
        assert [line for line in lines if whole in line], lines
    digits = {word for line in lines for word in line.split() if word[0].isdigit()}
    assert digits == {cell for row in ROWS for cell in row if cell[0].isdigit()}
    if width >= 40:
        assert all(len(line.rstrip()) <= width for line in lines), lines


def test_what_does_not_fit_is_a_list_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = shown(40, columns(), ROWS, monkeypatch).split("\n\n")
    assert first.splitlines() == [
        "day           2026-11-01",
        "service       storage of many volumes",
        "records       31",
        f"amount (USD)  {AMOUNT}",
    ]
    assert "0.5" in second


def test_text_is_folded_where_the_numbers_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    head, *rest = shown(66, columns(), ROWS, monkeypatch).splitlines()
    assert head.split() == ["day", "service", "records", "amount", "(USD)"]
    assert all(len(line.rstrip()) <= 66 for line in rest)
    assert len(rest) > len(ROWS)
    assert [word for line in rest for word in line.split() if word.isalpha()] == [*ROWS[0][1].split(), "compute"]


def test_a_summary_of_forty_columns(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    given_usage(service, usage(unitsConsumed="1512905.5", pricePerUnit="1"))
    controller, terminal = pty.openpty()
    read: list[bytes] = []
    with start(
        "summary", "--group-by", "service,day", stdout=terminal, COLUMNS="40", BILLING_BASE_URL=service.url
    ) as process:
        os.close(terminal)
        thread = threading.Thread(target=drain, args=(controller, read))
        thread.start()
        process.wait()
        thread.join()
    assert process.returncode == 0
    assert b"1512905.5" in b"".join(read)


def drain(controller: int, read: list[bytes]) -> None:
    with os.fdopen(controller, "rb", buffering=0) as terminal:
        try:
            while data := terminal.read(65_536):
                read.append(data)
        except OSError:  # EIO: the other end is closed
            pass


HIDDEN = "".join(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp"))


def test_what_a_terminal_would_obey_or_hide_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Marks that turn the direction of writing, or that nobody sees, would make one id look like another."""
    assert len(HIDDEN) > 200
    shown = printable(HIDDEN + "\u2800\u3164\uffa0\u115f\u034f\ufe0f")
    assert shown.isascii()
    assert shown.isprintable()
    print_table([text_column("id\u202e")], [["acme\u200b"], ["a\u2066b\U000e0041"]])
    assert capsys.readouterr().out.split() == ["id\\u202e", "acme\\u200b", "a\\u2066b\\U000e0041"]
    assert printable("Zürich 東京 ñ 😀") == "Zürich 東京 ñ 😀"


def test_json_is_the_same_json_and_harmless() -> None:
    name = f"Zürich 😀 {HIDDEN}"
    written = to_json({"name": name, HIDDEN: [name]})
    assert json.loads(written) == {"name": name, HIDDEN: [name]}
    assert not set(HIDDEN) & set(written.decode())
    assert "Zürich 😀" in written.decode()
