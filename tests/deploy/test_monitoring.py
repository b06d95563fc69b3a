"""The alerts and the dashboard: sound by themselves, and about what the service really exports."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.running import StartProcess, command, one, start_process, turn
from tests.scraping import metrics_url, scrape

from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["start_process"]

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "dashboard.json"
AUTOSCALER = ROOT / "deploy" / "kubernetes" / "monitoring" / "autoscaler.yaml"
ADAPTER = ROOT / "deploy" / "prometheus-adapter.yml"
OPERATIONS = ROOT / "docs" / "operations.md"

SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""

ONLY_IF_CONFIGURED = {"runner_jwks_age_seconds", "runner_daemon_unreachable", "runner_temporal_unreachable"}
"""What only a service with issuers of signed tokens, a daemon or Temporal exports. Tests of these read it."""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")


def alerts() -> dict[str, Any]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def autoscaled() -> Iterator[str]:
    """What the autoscaler asks the adapter for, as Prometheus would be asked."""
    (rule,) = yaml.safe_load(ADAPTER.read_text())["externalRules"]
    for each in yaml.safe_load(AUTOSCALER.read_text())["spec"]["metrics"]:
        metric = each[each["type"].lower()]["metric"]
        matchers = ",".join(f'{name}="{value}"' for name, value in metric["selector"]["matchLabels"].items())
        if each["type"] == "Pods":
            yield f"{metric['name']}{{{matchers}}}"
        else:
            assert metric["name"] == rule["name"]["as"]
            query = rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers)
            yield query.replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts().values())
    yield from autoscaled()
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def promtool(*arguments: str) -> str:
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_when_all_is_well() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS))
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))


def test_each_alert_is_proved_and_explained() -> None:
    proved = Path(__file__).with_name("alerts_test.yml").read_text()
    explained = OPERATIONS.read_text()
    for name in alerts():
        assert f'alertname="{name}"' in proved
        assert f"| {name} |" in explained
    assert set(re.findall(r"^\| (Runner\w+) \|", explained, re.MULTILINE)) == set(alerts())


@needs_promtool
def test_each_panel_asks_what_prometheus_understands(tmp_path: Path) -> None:
    asked = [expression.replace("$__rate_interval", "5m") for expression in expressions()]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(asked)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


async def test_everything_that_is_asked_for_is_there_after_one_execution(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(
        [turn("", command("echo hi; echo no >&2")), turn("Done.")], METRICS_ADDRESS="127.0.0.1:0"
    )
    assert one(await service.client.execute(), "finished").state == event_pb2.STATE_SUCCEEDED
    page = await scrape(metrics_url(tmp_path / "state"))
    async with asyncio.timeout(60):
        while not page.value("runner_loop_lag_seconds_count"):  # it is measured every 0.1 s
            page = await scrape(metrics_url(tmp_path / "state"))

    labels_of: dict[str, set[str]] = {}
    for sample in page.samples:
        labels_of.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        names = set(re.findall(r"\brunner_[a-z_]+", expression)) - ONLY_IF_CONFIGURED
        assert names <= labels_of.keys(), expression
        for name in names:
            for matchers in re.findall(rf"\b{name}\{{(.*?)\}}", expression):
                assert set(re.findall(r"(\w+)[!=]", matchers)) <= labels_of[name] | SCRAPED, expression
        by = {label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")}
        assert by <= set().union(*(labels_of[name] for name in names)) | SCRAPED, expression
    for expression in autoscaled():  # an adapter knows no sample that is not there: also 0 has to be exported
        (state,) = re.findall(r'state="(\w+)"', expression)
        assert any(each.name == "runner_executions" and each.labels["state"] == state for each in page.samples)
    asked_for = {name for expression in expressions() for name in re.findall(r"\brunner_[a-z_]+", expression)}
    unseen = {
        name for name in labels_of if name.startswith("runner_") and not name.endswith(("_sum", "_count", "_bucket"))
    }
    assert unseen <= asked_for
