"""The page on more than one machine, beside the script that works out its table."""

from pathlib import Path

from benchmarks.capacity import COSTS, capacity, table

PAGE = Path(__file__).parents[1] / "docs" / "operations" / "scaling.md"


def test_the_page_has_the_table_that_the_script_prints() -> None:
    text = PAGE.read_text("utf-8")
    shown = text.partition("<!-- capacity: begin -->\n")[2].partition("\n<!-- capacity: end -->")[0]
    assert shown == table(16, 10, 0.5)


def test_nodes_add_up() -> None:
    batches = COSTS[0]
    assert capacity(batches, 1, 2, 0.5) == 1_000_000 / batches.one
    assert capacity(batches, 64, 2, 0.5) == 16 * capacity(batches, 4, 2, 0.5)
