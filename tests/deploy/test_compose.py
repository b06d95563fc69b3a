"""The compose files: correct by the compose specification, and about settings, ports and files that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from runner_service.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ENVIRONMENT_FILE = {"DAYTONA_API_KEY": "dtn_key", "STIGMER_API_KEY": "stk-key", "OPENAI_API_KEY": "sk-key"}
FILES = ("compose.yaml", "compose.local.yaml")


def interpolated(file: str) -> str:
    """Returns a compose file with the defaults of its variables, as compose reads it."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / file).read_text())


def services(file: str) -> Any:
    return yaml.safe_load(interpolated(file))["services"]


@pytest.mark.parametrize("file", FILES)
def test_it_is_correct_by_the_specification(file: str) -> None:
    PyCompose.from_yaml(interpolated(file)).validate()
    with pytest.raises(ValueError, match="imagge"):
        PyCompose.from_yaml(interpolated(file).replace("image:", "imagge:", 1))


@pytest.mark.parametrize("file", FILES)
def test_the_service_takes_its_variables_and_knows_all_of_them(file: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a token of twenty-four bytes or more")
    given = {name: str(value) for name, value in services(file)["runner-service"]["environment"].items()}
    known = load_settings(given | ENVIRONMENT_FILE | {"AUTH_TOKEN_FILE": str(token), "HOME": str(tmp_path)})
    assert {name.lower() for name in given} <= set(known.names())


def test_the_files_that_containers_get_are_there() -> None:
    configs = yaml.safe_load(interpolated("compose.yaml"))["configs"]
    assert all((DEPLOY / each["file"]).is_file() for each in configs.values())


def test_envoy_and_prometheus_find_the_replicas_and_callers_find_envoy() -> None:
    found = services("compose.yaml")
    replica = found["runner-service"]
    assert replica["deploy"]["replicas"] == 2
    listens = {
        name: int(replica["environment"][name].rpartition(":")[2]) for name in ("LISTEN_ADDRESS", "METRICS_ADDRESS")
    }
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]
    (cluster,), (listener,) = envoy["clusters"], envoy["listeners"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    target = endpoint["endpoint"]["address"]["socket_address"]
    assert target == {"address": "runner-service", "port_value": listens["LISTEN_ADDRESS"]}
    port = listener["address"]["socket_address"]["port_value"]
    assert found["envoy"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (discovered,) = job["dns_sd_configs"]
    assert (discovered["names"], discovered["port"]) == (["runner-service"], listens["METRICS_ADDRESS"])
    assert f'job="{job["job_name"]}"' in (DEPLOY / "alerts.yml").read_text()


def test_only_replicas_reach_redis_and_it_keeps_what_it_has() -> None:
    found = services("compose.yaml")
    assert {name for name, each in found.items() if "storage" in each["networks"]} == {"runner-service", "redis"}
    assert found["redis"]["networks"] == ["storage"]
    arguments = found["redis"]["command"]
    assert arguments[arguments.index("--maxmemory-policy") + 1] == "noeviction"
    assert arguments[arguments.index("--appendonly") + 1] == "yes"


def test_a_replica_has_the_time_that_its_drain_takes() -> None:
    replica = services("compose.yaml")["runner-service"]
    assert int(replica["stop_grace_period"].strip("s")) > int(replica["environment"]["DRAIN_TIMEOUT"])
