"""What `check` says of Daytona, before the first execution finds out."""

import pytest
from tests.emulator import API_KEY, Cloud
from tests.executors.daytona.executors import later_sdk_only

from runner_service.check import daytona, run_checks
from runner_service.check.result import Check
from runner_service.settings import Settings


async def looked(url: str, key: str = API_KEY) -> Check:
    settings = Settings.from_environment(
        {
            "MODE": "cloud",
            "DAYTONA_API_URL": url,
            "DAYTONA_API_KEY": key,
            "STIGMER_API_KEY": "stk-key",
            "STIGMER_LLM_PROVIDER": "scripted",
        }
    )
    (found,) = [check for check in await run_checks(settings) if "DAYTONA" in check.name]
    assert key not in found.text
    return found


async def test_a_key_that_works_is_said(cloud: Cloud) -> None:
    found = await looked(cloud.api_url)
    assert (found.name, found.status) == ("DAYTONA_API_KEY", "ok")
    assert not cloud.created


@later_sdk_only
@pytest.mark.parametrize("version", ["0.190.0", "v0.190.0"])
async def test_a_server_whose_answers_the_sdk_cannot_read_is_said_before_the_first_execution(
    cloud: Cloud, version: str
) -> None:
    cloud.version = version
    found = await looked(cloud.api_url)
    assert (found.name, found.status) == ("DAYTONA_API_URL", "fail")
    assert f"is version {version}" in found.text
    assert found.next_step
    assert "daytona==0.200.0" in found.next_step


async def test_a_server_that_says_no_version_passes(cloud: Cloud) -> None:
    cloud.faults.add(r"GET /api/config", "404")
    assert (await looked(cloud.api_url)).status == "ok"


async def test_a_key_that_is_refused_is_said(cloud: Cloud) -> None:
    found = await looked(cloud.api_url, "dtn_another")
    assert (found.name, found.status, "refuses the key: HTTP 401" in found.text) == ("DAYTONA_API_KEY", "fail", True)


async def test_a_daytona_that_fails_for_now_is_no_wrong_key(cloud: Cloud) -> None:
    cloud.faults.add(r"GET /api/sandbox", "502")
    found = await looked(cloud.api_url)
    assert (found.name, found.status, "HTTP 502" in found.text) == ("DAYTONA_API_URL", "warn", True)


@pytest.mark.parametrize("how", ["drop", "hang"])
async def test_a_daytona_that_does_not_answer_is_said_in_time(
    cloud: Cloud, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daytona, "TIMEOUT_SECONDS", 0.5)
    cloud.faults.add(r"GET /api/sandbox", how)  # type: ignore[arg-type]  # of its kind
    found = await looked(cloud.api_url)
    assert (found.name, found.status, "does not answer" in found.text) == ("DAYTONA_API_URL", "fail", True)


async def test_an_address_where_nobody_is_is_said() -> None:
    found = await looked("http://127.0.0.1:1/api")
    assert (found.name, found.status, "refused" in found.text) == ("DAYTONA_API_URL", "fail", True)
