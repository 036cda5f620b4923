"""`/metrics` as Prometheus reads it."""

from collections import defaultdict
from collections.abc import Iterator

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """What one answer of `/metrics` said."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in self.families.values():
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels, 0 where there is none."""
        return sum(value for _, value in self.samples(name, **labels))

    def samples(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        for given, value in self._samples.get(name, []):
            if labels.items() <= given.items():
                yield given, value

    def labels(self, name: str) -> set[str]:
        """The names of all labels that samples of this name have; empty where there are no such samples."""
        return {label for given, _ in self.samples(name) for label in [*given, "__name__"]}


async def scrape(http: aiohttp.ClientSession) -> Scrape:
    async with http.get("/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return Scrape(await response.text())
