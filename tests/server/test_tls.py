"""TLS with the server's certificate, with the callers' ones, and with new files under a running server."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tests.probe import failure_of, serving

from runner_service.server import TlsError


def write_server_files(directory: Path, authority: trustme.CA) -> dict[str, Any]:
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    (directory / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    (directory / "cert.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    return {"TLS_CERT_FILE": str(directory / "cert.pem"), "TLS_KEY_FILE": str(directory / "key.pem")}


def trusting(authority: trustme.CA, *, own: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    if own is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    )


async def test_with_a_certificate_calls_are_encrypted_and_plain_ones_fail(tmp_path: Path) -> None:
    authority = trustme.CA()
    environ = write_server_files(tmp_path, authority)
    async with serving(credentials=trusting(authority), **environ) as probe:
        assert (await probe.call("x")).value == "x"
        async with grpc.aio.insecure_channel(probe.server.address) as plain:
            method: Any = plain.unary_unary("/probe.v1.Probe/Call")
            assert (await failure_of(method(b"", timeout=20))).code() is grpc.StatusCode.UNAVAILABLE


async def test_with_an_authority_for_callers_only_those_with_its_certificate_come_in(tmp_path: Path) -> None:
    authority, callers = trustme.CA(), trustme.CA()
    callers.cert_pem.write_to_path(str(tmp_path / "callers.pem"))
    environ = write_server_files(tmp_path, authority) | {"TLS_CLIENT_CA_FILE": str(tmp_path / "callers.pem")}
    environ["LISTEN_ADDRESS"] = "0.0.0.0:0"  # beyond loopback, and without a token
    known, stranger = callers.issue_cert("c@example.com"), trustme.CA().issue_cert("c@example.com")
    async with serving(credentials=trusting(authority, own=known), **environ) as probe:
        address = f"localhost:{probe.server.address.rpartition(':')[2]}"
        for own, code in (
            (known, grpc.StatusCode.OK),
            (stranger, grpc.StatusCode.UNAVAILABLE),
            (None, grpc.StatusCode.UNAVAILABLE),
        ):
            async with grpc.aio.secure_channel(address, trusting(authority, own=own)) as channel:
                method: Any = channel.unary_unary("/probe.v1.Probe/Call")
                assert await method(b"", timeout=20).code() is code


async def test_a_new_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    environ = write_server_files(tmp_path, old)
    async with serving(credentials=trusting(old), **environ) as probe:
        await probe.call()
        write_server_files(tmp_path, new)
        async with grpc.aio.secure_channel(probe.server.address, trusting(new)) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
        await probe.call()
        (tmp_path / "key.pem").write_text("half written")
        async with grpc.aio.secure_channel(probe.server.address, trusting(new), [("x", 1)]) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)


async def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    environ = write_server_files(tmp_path, trustme.CA())
    other = trustme.CA().issue_cert("localhost").private_key_pem.bytes()
    (tmp_path / "key.pem").write_bytes(other)
    with pytest.raises(TlsError, match=r"TLS_CERT_FILE .*cert\.pem and TLS_KEY_FILE .*key\.pem cannot be used"):
        async with serving(**environ):
            pass


async def test_an_authority_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "callers.pem").write_text("nothing")
    environ = write_server_files(tmp_path, trustme.CA()) | {"TLS_CLIENT_CA_FILE": str(tmp_path / "callers.pem")}
    with pytest.raises(TlsError, match=r"TLS_CLIENT_CA_FILE .*callers\.pem cannot be used"):
        async with serving(**environ):
            pass
