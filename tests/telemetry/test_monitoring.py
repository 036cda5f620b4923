"""The dashboard, alert rules and table of metrics match what a running service exposes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.calls import given_customer, post, usage
from tests.scrapes import Scrape, scrape

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
METRIC = re.compile(r"\bbilling_\w+\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it stands."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def metric_names(expression: str) -> set[str]:
    return {match[0].partition("{")[0] for match in METRIC.finditer(expression)}


def label_names(expression: str) -> set[str]:
    """All labels that an expression asks for or groups by."""
    matched = {name for match in METRIC.finditer(expression) for name, _ in MATCHER.findall(match[1] or "")}
    grouped = {name.strip() for match in GROUPING.finditer(expression) for name in match[1].split(",")}
    return matched | grouped - {""}


@pytest.fixture
async def told(http: aiohttp.ClientSession) -> Scrape:
    """What a service tells that has recorded something."""
    await given_customer(http)
    await post(http, "/usage", usage())
    return await scrape(http)


async def test_every_expression_is_about_metrics_and_labels_that_there_are(told: Scrape) -> None:
    for where, expression in expressions():
        names = metric_names(expression)
        assert names, where
        for name in names:
            assert told.labels(name), f"{where} asks for {name}, which there is not"
        known = {label for name in names for label in told.labels(name)}
        assert label_names(expression) <= known, where


async def test_values_of_labels_that_are_asked_for_are_there(told: Scrape) -> None:
    bounded = {label: set() for label in ("way", "outcome", "state")}  # type: dict[str, set[str]]
    for name in ("billing_usage_outcomes_total", "billing_pool_connections"):
        for labels, _ in told.samples(name):
            for label, value in labels.items():
                bounded[label].add(value)
    asked = [pair for _, expression in expressions() for pair in MATCHER.findall(expression)]
    for label, value in asked:
        if label in bounded:
            assert value in bounded[label]
    assert {label for label, _ in asked} >= {"outcome", "way"}


async def test_every_metric_is_documented_with_its_labels_and_nothing_else_is(told: Scrape) -> None:
    text = (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| `(billing_\w+)` \| (counter|gauge|histogram)((?:[;,] `\w+`)*) \|", text, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    exposed = {}
    for family in told.families.values():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exposed[name] = (family.type, labels)
    assert documented == exposed


async def test_every_metric_is_on_the_dashboard(told: Scrape) -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in metric_names(target["expr"])}
    for family in told.families.values():
        assert any(name.startswith(family.name) for name in shown), family.name


def test_every_alert_says_what_it_means_and_its_labels_survive_its_expression() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        told = " ".join(rule["annotations"][part] for part in ("summary", "description"))
        for label in re.findall(r"\$labels\.(\w+)", told):
            assert label in label_names(rule["expr"]), rule["alert"]


def test_the_readme_names_only_alerts_that_there_are() -> None:
    named = set(re.findall(r"`(Billing\w+)`", (FOLDER / "README.md").read_text()))
    assert named
    assert named <= {rule["alert"] for rule in alerts()}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
