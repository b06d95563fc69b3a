"""Requests to providers: what is made once for all of them."""

from collections.abc import Mapping

import httpx2

from runner_service.models.endpoint import Endpoint
from runner_service.models.latest import Latest


class Client:
    """What an `Endpoint` asks a provider's client."""

    base_url = httpx2.URL("http://provider/v1/")
    default_headers: Mapping[str, object] = {"Content-Type": "application/json", "X-Omitted": object()}
    auth_headers: Mapping[str, str] = {"Authorization": "Bearer k"}


async def test_each_request_has_its_own_length_and_headers_beside_those_of_all() -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, headers={"set-cookie": "a=b"})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        endpoint = Endpoint(Client(), "chat", http, httpx2.Timeout(7.0))
        for body, headers in ((b"1234567890", {"X-Beta": "yes"}), (b"1", {})):
            await (await endpoint.post(body, headers)).aclose()
    assert [(each.method, str(each.url), each.content) for each in sent] == [
        ("POST", "http://provider/v1/chat", b"1234567890"),
        ("POST", "http://provider/v1/chat", b"1"),
    ]
    assert [each.headers["content-length"] for each in sent] == ["10", "1"]
    assert [each.headers.get("x-beta") for each in sent] == ["yes", None]
    for each in sent:
        assert each.headers["authorization"] == "Bearer k"
        assert each.headers["content-type"] == "application/json"
        assert "x-omitted" not in each.headers
        assert each.extensions["timeout"]["read"] == 7.0


def test_a_result_is_made_again_for_other_arguments_only() -> None:
    calls: list[tuple[object, ...]] = []

    def joined(a: int, b: int) -> int:
        calls.append((a, b))
        return a * 10 + b

    latest = Latest(joined)
    assert [latest(a=1, b=2), latest(a=1, b=2), latest(a=1, b=3), latest(a=1, b=2)] == [12, 12, 13, 12]
    assert calls == [(1, 2), (1, 3), (1, 2)]
