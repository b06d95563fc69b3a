"""Every address that LISTEN_ADDRESS means is bound, or none."""

import asyncio
import socket
import stat
from pathlib import Path

import grpc
import pytest
from tests.ports import free_port
from tests.probe import serving

from runner_service.addresses import is_loopback, overlap, parse_address
from runner_service.server import BindError, require_bindable


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("localhost:50051", "localhost:50051"),
        ("[::1]:1", "[::1]:1"),
        ("[0:0::1]:1", "[::1]:1"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:x.sock", "unix:x.sock"),
    ],
)
def test_addresses_are_read_in_the_forms_that_are_promised(text: str, read: str) -> None:
    assert str(parse_address(text)) == read


@pytest.mark.parametrize(
    "text", ["", "localhost", ":1", "::1:1", "h:65536", "h:-1", "h:x", "h:²", "http://h:1", "unix:", "[h]:1"]
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="should"):
        parse_address(text)


def test_only_names_and_literals_that_cannot_lead_away_are_loopback() -> None:
    inside = ("localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "unix:/x")
    outside = ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "localhost.example.com:1")
    assert all(is_loopback(parse_address(text)) for text in inside)
    assert not any(is_loopback(parse_address(text)) for text in outside)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("localhost:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "localhost:1", True),
        ("example.com:1", "example.com:1", True),
        ("localhost:1", "localhost:2", False),
        ("localhost:0", "localhost:0", False),
        ("localhost:1", "example.com:1", False),
        ("unix:/x", "unix:/x", True),
        ("unix:/x", "localhost:1", False),
    ],
)
def test_addresses_overlap_when_only_one_of_them_could_be_bound(one: str, other: str, clash: bool) -> None:
    assert overlap(parse_address(one), parse_address(other)) is clash


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_name_is_bound_at_all_its_addresses_with_one_port() -> None:
    async with serving() as probe:
        ports = {address.rpartition(":")[2] for address in probe.server.addresses}
        assert len(ports) == 1
        assert probe.server.address == f"localhost:{ports.pop()}"
        assert "0" not in ports
        for address in probe.server.addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                await asyncio.wait_for(channel.channel_ready(), 20)


@pytest.mark.skipif(not ipv6_works(), reason="needs two loopback addresses")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_when_one_of_the_addresses_is_taken_none_is_bound(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as holder:
        holder.bind((host, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(BindError, match=f"localhost:{port} is taken: stop what listens there, or set"):
            async with serving(LISTEN_ADDRESS=f"localhost:{port}"):
                pass
        other_family, other = (socket.AF_INET6, "::1") if host == "127.0.0.1" else (socket.AF_INET, "127.0.0.1")
        with socket.socket(other_family) as free:
            free.bind((other, port))


async def test_a_second_server_is_refused_on_the_same_port() -> None:
    async with serving() as probe:
        with pytest.raises(BindError, match="is taken"):
            async with serving(LISTEN_ADDRESS=probe.server.address):
                pass
        with pytest.raises(BindError, match="is taken"):
            await require_bindable(parse_address(probe.server.address))


async def test_grpc_itself_does_not_share_the_port_either() -> None:
    """The effect of `grpc.so_reuseport=0`: without our own trial a second server would bind it silently."""
    async with serving() as probe:
        second = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
        with pytest.raises(RuntimeError):
            second.add_insecure_port(probe.server.addresses[0])


async def test_the_port_is_free_again_as_soon_as_the_server_has_stopped() -> None:
    address = f"localhost:{free_port()}"
    async with serving(LISTEN_ADDRESS=address) as probe:
        await probe.call()
    async with serving(LISTEN_ADDRESS=address) as probe:
        await probe.call()


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:50051", "not an address of this machine"), ("nowhere.invalid:1", "cannot be resolved")],
)
async def test_an_address_of_others_is_refused_in_words(address: str, why: str) -> None:
    with pytest.raises(BindError, match=why):
        async with serving(LISTEN_ADDRESS=address, AUTH_TOKEN="t"):
            pass


async def test_a_unix_socket_is_its_owners_alone_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runner.sock"
    async with serving(LISTEN_ADDRESS=f"unix:{path}") as probe:
        assert probe.server.address == f"unix:{path}"
        await probe.call()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert not path.exists()


async def test_the_socket_of_a_server_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runner.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(LISTEN_ADDRESS=f"unix:{path}") as probe:
        await probe.call()


async def test_the_socket_of_a_server_that_lives_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "runner.sock"
    async with serving(LISTEN_ADDRESS=f"unix:{path}") as probe:
        with pytest.raises(BindError, match="is taken"):
            async with serving(LISTEN_ADDRESS=f"unix:{path}"):
                pass
        await probe.call()


async def test_a_file_in_the_place_of_the_socket_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(BindError, match="not a socket"):
        async with serving(LISTEN_ADDRESS=f"unix:{path}"):
            pass
    assert path.read_text() == "mine"


async def test_a_socket_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="longer than 107 bytes"):
        async with serving(LISTEN_ADDRESS=f"unix:{tmp_path / ('x' * 120)}"):
            pass


async def test_a_directory_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BindError, match=r"cannot be made: (Not a directory|File exists)"):
        async with serving(LISTEN_ADDRESS=f"unix:{tmp_path}/file/x.sock"):
            pass
