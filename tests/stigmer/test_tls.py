"""A daemon behind TLS: at port 443, with a certificate that is to be trusted, or is not."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.running import ServiceProcess, StartProcess, StartService, one, turn
from tests.scraping import metrics_url, scrape
from tests.stigmer.fake_daemon import COMPLETED, KEY, FakeDaemon, served
from tests.stigmer.test_by_id import by_id, refusal, with_daemon

from runner_service.check import run_checks
from runner_service.settings import load_settings
from runner_service.stigmer.client import wants_tls

# Each process of tests its own, since the port is not to be chosen.
HOST = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"


@pytest.fixture
def authority() -> trustme.CA:
    try:
        with socket.create_server((HOST, 443)):
            return trustme.CA()
    except OSError as error:
        pytest.skip(f"port 443 cannot be had: {error}")


@asynccontextmanager
async def secured(authority: trustme.CA, daemon: FakeDaemon | None = None) -> AsyncIterator[FakeDaemon]:
    """A daemon at port 443, with a certificate of the authority."""
    certificate = authority.issue_cert(HOST)
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    daemon = daemon or FakeDaemon()
    daemon.agent()
    daemon.execution("aex-1")
    async with served(daemon, f"{HOST}:443", credentials=credentials):
        yield daemon


def trusting(authority: trustme.CA, directory: Path) -> dict[str, str]:
    """What an operator sets for an authority of their own."""
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    return {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(directory / "authority.pem")}


async def link_of(service: ServiceProcess) -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service="stigmer-daemon"))).status)


async def test_an_execution_by_its_id_goes_over_tls_with_the_key(
    start_process: StartProcess, authority: trustme.CA, tmp_path: Path
) -> None:
    async with secured(authority) as daemon:
        service = await start_process([turn("Hi.")], **with_daemon(daemon), **trusting(authority, tmp_path))

        assert one(await by_id(service.client, "aex-1"), "finished").output == "Hi."
        assert (await daemon.until_final("aex-1")).phase == COMPLETED
        assert daemon.keys == {f"Bearer {KEY}"}
        assert await link_of(service) == health_pb2.HealthCheckResponse.SERVING


async def test_a_certificate_that_is_not_trusted_is_told_everywhere_until_there_is_a_right_one(
    start_process: StartProcess, authority: trustme.CA, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    variables = trusting(authority, tmp_path) | {"METRICS_ADDRESS": "127.0.0.1:0"}
    async with secured(trustme.CA()) as daemon:
        service = await start_process([turn("Hi.")], **with_daemon(daemon), **variables)
        async with asyncio.timeout(60):
            refused = await refusal(service.client, "aex-1")

        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert f"{daemon.address} shows no certificate that this service trusts" in (refused.details() or "")
        assert not daemon.keys  # it was not sent to whoever that is
        assert await link_of(service) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await scrape(metrics_url(tmp_path / "state"))).value("runner_daemon_unreachable") == 1
        told = ""
        async with asyncio.timeout(60):
            while "CERTIFICATE_VERIFY_FAILED" not in told:  # lines are written by a thread
                await asyncio.sleep(0.02)
                told += capfd.readouterr().err
        assert told.count("daemon_not_reachable") == 1
        assert KEY not in told
    async with secured(authority, daemon):
        async with asyncio.timeout(60):
            while await link_of(service) != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.05)
        assert one(await by_id(service.client, "aex-1"), "finished").output == "Hi."


async def test_check_says_what_to_do_about_a_certificate_that_is_not_trusted(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with secured(authority) as daemon:
        settings = load_settings(
            {
                "MODE": "local",
                "STATE_DIR": str(tmp_path / "state"),
                "SANDBOX_ROOT_DIR": str(tmp_path),
                "LISTEN_ADDRESS": "127.0.0.1:0",
                "STIGMER_LLM_PROVIDER": "scripted",
                **with_daemon(daemon),
            }
        )
        (check,) = [each for each in await run_checks(settings) if each.name == "STIGMER_BACKEND_ENDPOINT"]

    assert check.status == "fail"
    assert "CERTIFICATE_VERIFY_FAILED" in check.text
    assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in check.next_step


async def test_nobody_who_speaks_plainly_is_taken_for_a_daemon_with_tls(
    start: StartService, authority: trustme.CA
) -> None:
    daemon = FakeDaemon()
    assert authority
    async with served(daemon, f"{HOST}:443"):
        client = await start([turn("Hi.")], **with_daemon(daemon))
        assert (await refusal(client, "aex-1")).code() == grpc.StatusCode.UNAVAILABLE
    assert not daemon.keys


def test_port_443_alone_means_tls() -> None:
    assert wants_tls("api.stigmer.ai:443")
    assert not wants_tls("localhost:50051")
    assert not wants_tls("localhost:4430")
