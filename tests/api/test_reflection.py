"""Reflection, asked by a client that is not ours."""

import asyncio
import subprocess
import sysconfig
from pathlib import Path

from tests.probe import SERVICE, serving

GRPCURL = Path(sysconfig.get_path("scripts")) / "grpcurl"


async def grpcurl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        GRPCURL, "-plaintext", "-max-time", "20", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    told, _ = await process.communicate()
    return told.decode()


async def test_grpcurl_lists_the_services_and_asks_for_health_without_any_proto() -> None:
    async with serving() as probe:
        address = probe.server.address
        listed = (await grpcurl(address, "list")).split()
        reflection = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
        assert listed == sorted(["grpc.health.v1.Health", *reflection, SERVICE])
        assert '"status": "SERVING"' in await grpcurl(address, "grpc.health.v1.Health/Check")


async def test_both_versions_of_reflection_are_spoken_and_described() -> None:
    async with serving() as probe:
        for version in ("v1", "v1alpha"):
            name = f"grpc.reflection.{version}.ServerReflection"
            assert f"service {'ServerReflection'}" in await grpcurl(probe.server.address, "describe", name)
            asked = ("-d", '{"list_services": ""}', probe.server.address, f"{name}/ServerReflectionInfo")
            assert SERVICE in await grpcurl(*asked)


async def test_reflection_needs_the_token() -> None:
    async with serving(AUTH_TOKEN="t0ken") as probe:
        assert "grpc.health" not in await grpcurl(probe.server.address, "list")
        assert SERVICE in await grpcurl("-H", "authorization: Bearer t0ken", probe.server.address, "list")
