"""Which hosts may be reached: by name, by address, and by what a name leads to."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from runner_service.allowed_hosts import AllowedHost, parse_hosts, parse_ip
from runner_service.executors.egress.policy import EgressDeniedError, EgressPolicy


class Denials:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int, reason: str) -> None:
        assert reason
        self.seen.append((host, port))


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Has names lead to these addresses, one answer for each look-up; returns the names that were looked up."""
    asked: list[str] = []
    remaining = list(answers)

    async def getaddrinfo(host: str, port: int, **_: object) -> object:
        asked.append(host)
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in remaining.pop(0)]

    monkeypatch.setattr(
        type(asyncio.get_running_loop()), "getaddrinfo", lambda _loop, *args, **more: getaddrinfo(*args, **more)
    )
    return asked


def policy(*allowed: str) -> tuple[EgressPolicy, Denials]:
    denials = Denials()
    return EgressPolicy(parse_hosts(allowed), denials), denials


@pytest.mark.parametrize(
    ("allowed", "host", "port", "is_allowed"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "EXAMPLE.com.", 80, True),
        ("example.com", "www.example.com", 443, False),
        ("example.com", "example.com", 8443, False),
        ("example.com:8443", "example.com", 8443, True),
        ("example.com:8443", "example.com", 443, False),
        ("*.example.com", "www.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "evilexample.com", 443, False),
        ("10.0.0.1:8080", "10.0.0.1", 8080, True),
        ("10.0.0.1", "10.0.0.2", 80, False),
        ("[::1]:8080", "[0:0:0:0:0:0:0:1]", 8080, True),
        ("127.0.0.1", "2130706433", 80, False),
        ("127.0.0.1", "0x7f.1", 80, False),
        ("127.0.0.1", "::ffff:127.0.0.1", 80, False),
    ],
)
def test_an_allowed_host_matches_itself_and_nothing_like_it(
    allowed: str, host: str, port: int, is_allowed: bool
) -> None:
    name = host.lower().rstrip(".").strip("[]")
    address = parse_ip(name)
    assert AllowedHost.parse(allowed).matches(str(address or name), port) is is_allowed


@pytest.mark.parametrize("text", ["", "a b", "http://x", "x:0x", "x:99999", "*", "*.", "x:", "user@host", "[::1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port"):
        AllowedHost.parse(text)


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolver(monkeypatch, [address])
    rules, denials = policy("rebound.example")
    with pytest.raises(EgressDeniedError, match="private address"):
        await rules.addresses("rebound.example", 443)
    assert denials.seen == [("rebound.example", 443)]


async def test_a_name_is_looked_up_once_and_its_public_addresses_are_what_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = resolver(
        monkeypatch, ["10.0.0.1", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"], ["127.0.0.1"]
    )
    rules, denials = policy("example.com")
    found = await rules.addresses("example.com", 443)
    assert found == ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
    assert (asked, denials.seen) == (["example.com"], [])


async def test_a_denied_host_is_told_once_and_counted() -> None:
    rules, denials = policy("example.com")
    for _ in range(3):
        with pytest.raises(EgressDeniedError, match="not among the allowed hosts"):
            await rules.addresses("other.example", 443)
    for number in range(500):
        with pytest.raises(EgressDeniedError):
            await rules.addresses(f"{number}.example", 443)
    assert denials.seen[0] == ("other.example", 443)
    assert len(denials.seen) == 100
    assert rules.repeated_denials() == "other.example 3 times"
