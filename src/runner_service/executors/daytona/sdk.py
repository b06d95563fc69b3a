"""The one door to the `daytona` package: imported in a thread, with everything off that it would do by itself."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from runner_service.executors.protocol import SandboxError
from runner_service.importing import large_import
from runner_service.settings import SecretStr

if TYPE_CHECKING:
    from daytona import AsyncDaytona

_CLOSE_TIMEOUT_SECONDS = 5.0


@asynccontextmanager
async def daytona_client(*, api_key: SecretStr, api_url: str, target: str) -> AsyncIterator["AsyncDaytona"]:
    """Opens a client for the running loop. The import takes seconds, most of them in a thread.

    Raises:
        SandboxError: the package is not installed.
    """
    try:
        await asyncio.to_thread(_import)
    except ImportError as error:
        raise SandboxError(
            "MODE=cloud needs the extra `cloud` of runner-service, which has the Daytona SDK: install it"
        ) from error
    client = await asyncio.to_thread(_client, api_key, api_url, target)
    try:
        yield client
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                await client.close()  # type: ignore[no-untyped-call]  # the SDK has not typed it


def _import() -> None:
    if "daytona" in sys.modules:
        return  # to freeze once more what is garbage by now would keep it for ever
    with large_import():
        import daytona  # noqa: F401, PLC0415  # this is what it is for


def _client(api_key: SecretStr, api_url: str, target: str) -> "AsyncDaytona":
    from daytona import AsyncDaytona, DaytonaConfig  # noqa: PLC0415  # see above

    # With every value given, the SDK looks for none in a .env of the working directory.
    config = DaytonaConfig(
        api_key=api_key.get_secret_value(),
        api_url=api_url,
        target=target or _NO_TARGET,
        connection_pool_maxsize=None,  # each command that runs holds a connection; admission bounds them
    )

    class QuietDaytona(AsyncDaytona):
        """Takes neither the process's global tracer nor its HTTP clients, even if a variable or a .env says so."""

        def _init_otel(self, sdk_version: str) -> None:
            """Does nothing."""

    client = QuietDaytona(config)
    if not target:
        client._target = None  # noqa: SLF001  # there is no other way to have no target and read no .env
    return client


_NO_TARGET = "none"
