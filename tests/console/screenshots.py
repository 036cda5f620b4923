"""`python -m tests.console.screenshots`: make the pictures in `docs/guides/console/`, with Chromium."""

import asyncio
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from playwright.sync_api import sync_playwright

from benchmarks.servers import create_database, postgresql, temporary_folder
from billing_service.settings import Settings
from tests.calls import given_customer, post, send
from tests.services import Service, running_service

FOLDER = Path(__file__).parents[2] / "docs" / "guides" / "console"
CUSTOMERS = ("Acme Corporation", "Zenith Analytics", "Orion Health", "Nimbus Retail", "Vega Logistics", "Lyra Games")
PRICES = {"compute": "0.0425", "storage": "0.0023", "requests": "0.0004", "network": "0.0091"}


def main() -> None:
    with temporary_folder() as folder, postgresql(folder) as server_url:
        url = create_database(server_url, "screenshots", 0)
        with running_service(Settings(database_url=url)) as service:
            asyncio.run(_fill(service))
            _take(service)


async def _fill(service: Service) -> None:
    async with aiohttp.ClientSession(service.url) as http:
        for customer in CUSTOMERS:
            await given_customer(http, _id_of(customer))
            await send(http, "PATCH", f"/customers/{_id_of(customer)}", {"name": customer})
        usages = list(_usages())
        for first in range(0, len(usages), 5_000):
            (await post(http, "/usage/batch", {"records": usages[first : first + 5_000]})).require(200)
        refused = usages[-1] | {"unitsConsumed": "99"}
        unknown = usages[-2] | {"customerId": "lyra-game", "eventId": "match/1187"}
        await post(http, "/usage/batch", {"records": [refused, unknown]})
        await asyncio.sleep(2)  # refusals are written after the answer


def _id_of(customer: str) -> str:
    return customer.lower().replace(" ", "-")


def _usages() -> Iterator[dict[str, str]]:
    """Two months of usage that grows a little, and rests at weekends."""
    draw, now = random.Random(7), datetime.now(UTC)
    for n in range(24 * 58):
        at = now - timedelta(hours=24 * 58 - n)
        for size, customer in enumerate(CUSTOMERS, 1):
            for service, price in PRICES.items():
                if draw.random() < (0.15 if at.weekday() > 4 else 0.4):
                    yield {
                        "customerId": _id_of(customer),
                        "service": service,
                        "unitsConsumed": str(draw.randrange(100, 900 + n // 3) * size),
                        "pricePerUnit": price,
                        "eventId": f"{service}/{n}",
                        "occurredAt": at.isoformat(),
                    }


def _take(service: Service) -> None:
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        _pictures(browser, service, "", {"width": 1280, "height": 900}, "light")
        _pictures(browser, service, "-dark", {"width": 1280, "height": 900}, "dark", only="overview")
        _pictures(browser, service, "-narrow", {"width": 390, "height": 844}, "light", only="overview")
        browser.close()


def _pictures(browser: Any, service: Service, suffix: str, viewport: Any, scheme: str, only: str = "") -> None:
    context = browser.new_context(viewport=viewport, color_scheme=scheme, base_url=service.url)
    page = context.new_page()
    paths = {
        "overview": "/console",
        "customer": "/console/customers/acme-corporation",
        "statements": "/console/statements",
        "refusals": "/console/refusals",
        "record": f"/console/find?q={list(_usages())[-1]['eventId']}",
    }
    for name, path in paths.items():
        if only in ("", name):
            page.goto(path)
            if name == "record" and page.get_by_role("heading", name="Records").count():
                page.get_by_role("listitem").get_by_role("link").last.click()
            page.wait_for_load_state("load")
            page.screenshot(path=FOLDER / f"{name}{suffix}.png")
    context.close()


if __name__ == "__main__":
    main()
