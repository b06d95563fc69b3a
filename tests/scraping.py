"""What Prometheus would read of a service."""

import asyncio
import json
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One reading. Samples are by their names and labels."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )


def metrics_url(state_dir: Path) -> str:
    """Where the service that holds a state directory serves its metrics."""
    about = json.loads((state_dir / "service.json").read_text())
    return f"http://{about['metrics_address']}/metrics"


async def scrape(url: str) -> Scrape:
    """Reads the page once."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=20) as page:
            return str(page.read().decode())

    return Scrape(await asyncio.to_thread(read))
