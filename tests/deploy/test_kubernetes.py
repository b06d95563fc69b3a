"""The manifests fit the service: its variables, its ports, its time to drain, its metrics and its alerts."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner_service.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SECRETS = {"DAYTONA_API_KEY": "dtn_key", "STIGMER_API_KEY": "stk-key", "STIGMER_LLM_PROVIDER": "scripted"}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def variables(kustomization: Path) -> dict[str, str]:
    (generator,) = documents(kustomization / "kustomization.yaml")[0]["configMapGenerator"]
    return dict(each.split("=", 1) for each in generator["literals"])


@pytest.fixture
def pod() -> Any:
    (deployment,) = documents(KUBERNETES / "base/deployment.yaml")
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_the_service_takes_its_variables_and_knows_all_of_them(overlay: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a token of twenty-four bytes or more")
    given = variables(KUBERNETES / "base")
    if overlay == "production":
        given |= variables(KUBERNETES / "overlays/production")
    known = load_settings(given | SECRETS | {"AUTH_TOKEN_FILE": str(token), "HOME": str(tmp_path)})
    assert {name.lower() for name in given} <= set(known.names())


def test_a_pod_has_the_time_that_its_drain_takes(pod: Any) -> None:
    drain = int(variables(KUBERNETES / "base")["DRAIN_TIMEOUT"])
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > drain + before


def test_probes_and_services_use_ports_where_the_service_listens(pod: Any) -> None:
    container = pod["containers"][0]
    given = variables(KUBERNETES / "base")
    listens = {int(given[name].rpartition(":")[2]) for name in ("LISTEN_ADDRESS", "HEALTH_ADDRESS", "METRICS_ADDRESS")}
    names = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert set(names.values()) == listens
    health = int(given["HEALTH_ADDRESS"].rpartition(":")[2])
    probes = [container[f"{kind}Probe"]["grpc"] for kind in ("startup", "liveness", "readiness")]
    assert {each["port"] for each in probes} == {health}
    (service,) = documents(KUBERNETES / "base/service.yaml")
    assert all(names[each["targetPort"]] == each["port"] for each in service["spec"]["ports"])


def test_prometheus_finds_the_metrics_and_names_the_job_as_the_alerts_do() -> None:
    (monitor,) = documents(KUBERNETES / "monitoring/service-monitor.yaml")
    (service,) = documents(KUBERNETES / "base/service.yaml")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # Without `jobLabel` the job is called as the Service is.
    assert f'job="{service["metadata"]["name"]}"' in (DEPLOY / "alerts.yml").read_text()


def test_the_autoscaler_and_the_budget_are_about_the_deployment(pod: Any) -> None:
    (autoscaler,) = documents(KUBERNETES / "monitoring/autoscaler.yaml")
    (deployment,) = documents(KUBERNETES / "base/deployment.yaml")
    (budget,) = documents(KUBERNETES / "base/disruption-budget.yaml")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    metrics = autoscaler["spec"]["metrics"]
    targets = [int(each[each["type"].lower()]["target"]["averageValue"]) for each in metrics]
    assert max(targets) < int(variables(KUBERNETES / "base")["MAX_CONCURRENT_EXECUTIONS"])
    assert pod["automountServiceAccountToken"] is False


def test_the_alerts_are_those_that_the_page_explains() -> None:
    (rule,) = documents(KUBERNETES / "monitoring/alerts.yaml")
    (rules,) = documents(DEPLOY / "alerts.yml")
    assert rule["spec"] == rules


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, which contains kustomize")
@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_an_overlay_can_be_built(overlay: str) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "overlays" / overlay], capture_output=True, text=True, check=True
    )
    kinds = {each["kind"] for each in yaml.safe_load_all(built.stdout)}
    assert {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"} <= kinds
    assert ("HorizontalPodAutoscaler" in kinds) == (overlay == "production")
