"""examples/import_focus.py: a cloud bill, by the command that tests/cli tries in all ways."""

import csv
from pathlib import Path

import pytest

from tests.cli.imports.bills import figures, line, write_bill
from tests.examples import run_example
from tests.ledgers import FOCUS_SAMPLE
from tests.services import Service


def test_a_bill_is_imported_once(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "1.50", "0.20"), line("id-2", "1.50", "0.20"))
    for recorded, replayed in ((2, 0), (0, 2)):
        done = run_example("import_focus.py", bill, "--base-url", service.url)
        assert done.returncode == 0, done.stderr
        assert figures(done.stdout)["recorded"] == str(recorded)
        assert figures(done.stdout)["replayed"] == str(replayed)
    assert figures(done.stdout)["total as stored"] == "0.6"


def test_what_is_no_bill_is_refused(service: Service, tmp_path: Path) -> None:
    usage = tmp_path / "usage.csv"
    usage.write_text("customerId,service,unitsConsumed,pricePerUnit\nacme,storage,1,1\n")
    done = run_example("import_focus.py", usage, "--base-url", service.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is no FOCUS bill: its first line does not name SubAccountId" in done.stderr


@pytest.mark.skipif(not FOCUS_SAMPLE.exists(), reason="the FOCUS sample is not here")
def test_the_focus_sample(service: Service, tmp_path: Path) -> None:
    bill = tmp_path / "focus_sample.csv"
    bill.write_bytes(FOCUS_SAMPLE.read_bytes())
    done = run_example("import_focus.py", bill, "--base-url", service.url)
    assert done.returncode == 1, done.stderr  # the one without a quantity
    assert figures(done.stdout)["recorded"] == "999"
    with bill.with_name("focus_sample.rejected.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
