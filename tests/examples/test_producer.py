"""examples/producer.py: what it records without a service is delivered once there is one."""

from pathlib import Path

from tests.examples import run_example
from tests.services import Service, free_port


def test_what_is_recorded_without_a_service_is_delivered_by_the_next_run(service: Service, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    away = run_example("producer.py", "--url", f"http://127.0.0.1:{free_port()}", "--spool", spool, "--uses", "20")
    assert away.returncode == 1
    assert f"safe in {spool}: 20 uses" in away.stdout
    assert away.stdout.endswith("delivered: 0 uses; left for the next run: 20\n")

    back = run_example("producer.py", "--url", service.url, "--spool", spool, "--uses", "5")
    assert back.returncode == 0
    assert back.stdout.startswith("left by an earlier run: 20 uses\n")
    assert back.stdout.endswith("delivered: 25 uses; left for the next run: 0\n")


def test_a_spool_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    spool = tmp_path / "usage.txt"
    spool.write_text("no spool")
    refused = run_example("producer.py", "--url", f"http://127.0.0.1:{free_port()}", "--spool", spool)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert str(spool) in refused.stderr
