"""aiohttp transport for the clients of OpenAI and Anthropic, by the adapters that they ship.

aiohttp's compiled parser reads a token in a third of the time of httpx.
"""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2


def with_mapped_errors(adapter: type[httpx2.AsyncClient]) -> type[httpx2.AsyncClient]:
    """Returns an adapter that tells timeouts from broken connections."""

    class AiohttpClient(adapter):  # type: ignore[valid-type, misc]  # a class that is given
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            """Sends a request. Raises httpx2.RequestError."""
            try:
                response: httpx2.Response = await super().send(request, **options)
            except httpx2.TimeoutException as error:
                _raise_unless_timeout(error, request)
                raise
            if isinstance(response.stream, httpx2.AsyncByteStream):
                response.stream = _ErrorMappingStream(response.stream, request)
            return response

    return AiohttpClient


class _ErrorMappingStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, request: httpx2.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except httpx2.TimeoutException as error:
            _raise_unless_timeout(error, self._request)
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


def _raise_unless_timeout(error: httpx2.TimeoutException, request: httpx2.Request) -> None:
    """The adapter reports every connection failure as a connect timeout: raises ConnectError for the others."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectionError) and not isinstance(cause, aiohttp.ServerTimeoutError):
        raise httpx2.ConnectError(str(cause), request=request) from error
