"""Several services of one process, as in tests and notebooks: each shows its own figures while it is there."""

from contextlib import ExitStack

from tests.scraping import Scrape

from runner_service.settings import Settings
from runner_service.telemetry import ExportFlush, metering, metrics, scrape_metrics


def watchers() -> float | None:
    """What the page shows of a gauge; None when nobody reads it."""
    page = Scrape(scrape_metrics().decode())
    return page.value("runner_watchers") if any(each.name == "runner_watchers" for each in page.samples) else None


def test_services_that_end_in_any_order_take_their_own_figures_away_and_no_others() -> None:
    with metering(Settings.from_environment({"METRICS_ADDRESS": "127.0.0.1:0"}), ExportFlush()):
        older, newer = ExitStack(), ExitStack()
        older.enter_context(metrics.gauges_observed({metrics.WATCHERS: lambda: 1, metrics.LOG_BACKLOG: lambda: 10}))
        newer.enter_context(metrics.gauges_observed({metrics.WATCHERS: lambda: 2}))
        assert watchers() == 2
        older.close()
        assert watchers() == 2
        newer.close()
        assert watchers() is None


def test_the_one_that_stays_is_seen_again() -> None:
    with (
        metering(Settings.from_environment({"METRICS_ADDRESS": "127.0.0.1:0"}), ExportFlush()),
        metrics.gauges_observed({metrics.WATCHERS: lambda: 1}),
    ):
        with metrics.gauges_observed({metrics.WATCHERS: lambda: 2}):
            assert watchers() == 2
        assert watchers() == 1
