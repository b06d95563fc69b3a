"""Posts requests that are encoded already, in place of the clients of OpenAI and Anthropic.

The clients copy and encode a request by Python code, and read the whole body of an error.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import httpx2

from runner_service.models.failure_texts import read_error
from runner_service.models.failures import ProviderError, status_failure

_NO_HEADERS: Mapping[str, str] = {}


class ProviderClient(Protocol):
    """What tells where a client would post, and with which headers."""

    @property
    def base_url(self) -> httpx2.URL:
        """The address that paths are below."""

    @property
    def default_headers(self) -> Mapping[str, Any]:
        """The headers of every request; what is no string is not sent."""

    @property
    def auth_headers(self) -> Mapping[str, str]:
        """The headers with the key."""


class Endpoint:
    """One path of a provider."""

    def __init__(self, client: ProviderClient, path: str, http: httpx2.AsyncClient, timeout: httpx2.Timeout) -> None:
        self._client = client
        self._url = f"{str(client.base_url).rstrip('/')}/{path}"
        self._http = http
        self._timeout = timeout

    async def post(self, body: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> httpx2.Response:
        """Returns the response, whose body is unread.

        Raises:
            ProviderError: the status is that of an error.
            httpx2.RequestError: the connection failed.
        """
        url, known_headers, extensions = self._template
        request = httpx2.Request("POST", url, headers=known_headers, content=body, extensions=extensions)
        request.headers.update(headers)
        response = await self._http.send(request, stream=True)
        if response.is_success:
            return response
        try:
            text = await read_error(response)
        finally:
            await response.aclose()
        raise ProviderError(status_failure(response.status_code, text, response.headers))

    @cached_property
    def _template(self) -> tuple[httpx2.URL, httpx2.Headers, Mapping[str, Any]]:
        """What requests have in common."""
        own = {**self._client.default_headers, **self._client.auth_headers}
        headers = {name: value for name, value in own.items() if isinstance(value, str)}
        request = self._http.build_request("POST", self._url, headers=headers, timeout=self._timeout)
        for each in ("content-length", "cookie"):
            request.headers.pop(each, None)
        return request.url, request.headers, request.extensions
