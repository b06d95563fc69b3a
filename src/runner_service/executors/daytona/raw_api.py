"""Calls of the Daytona API without the SDK, for when the SDK cannot read what this version of the server answers."""

from importlib.metadata import PackageNotFoundError, version

from runner_service.executors.daytona.failures import FailureKind, IncompatibleServerError
from runner_service.executors.daytona.retries import RETRYABLE, CallFailedError, retry
from runner_service.settings import SecretStr

_ATTEMPT_TIMEOUT_SECONDS = 15.0
_DELETE_TIMEOUT_SECONDS = 60.0


class RawApi:
    """The Daytona API as plain HTTP."""

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url = url
        self._key = key

    async def incompatible(self) -> IncompatibleServerError:
        """Returns the error that names the versions of SDK and server."""
        return IncompatibleServerError(
            f"the Daytona SDK {_sdk_version()} cannot read the answers of this Daytona server, version "
            f"{await self.server_version()}; install the version of the package daytona that fits the server "
            "(0.200.0 fits servers from 0.190), or upgrade the server"
        )

    async def server_version(self) -> str:
        """Returns the version that the server says it has, or `unknown`."""
        try:
            about = await retry(
                "the version of the server",
                lambda: self._request("GET", "config"),
                attempt_timeout=_ATTEMPT_TIMEOUT_SECONDS,
                total_timeout=_ATTEMPT_TIMEOUT_SECONDS,
            )
        except Exception:  # noqa: BLE001  # whatever is wrong, the error that needs the version matters more
            return "unknown"
        return str(about.get("version") or "unknown")

    async def delete(self, name: str) -> None:
        """Deletes a sandbox by the id that belongs to its name; no error if it is gone. Raises SandboxError."""

        async def attempt() -> None:
            found = await self._request("GET", f"sandbox/{name}")
            await self._request("DELETE", f"sandbox/{found['id']}")

        try:
            await retry(
                "the deletion of a sandbox",
                attempt,
                attempt_timeout=2 * _ATTEMPT_TIMEOUT_SECONDS,
                total_timeout=_DELETE_TIMEOUT_SECONDS,
                retryable=RETRYABLE | {FailureKind.BUSY},
                handled=(FailureKind.MISSING,),
            )
        except CallFailedError:
            return

    async def _request(self, method: str, path: str) -> dict[str, object]:
        import aiohttp  # noqa: PLC0415  # loaded with the SDK

        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}", "Accept": "application/json"}
        async with (
            aiohttp.ClientSession(trust_env=True, raise_for_status=True) as session,
            session.request(method, f"{self._url}/{path}", headers=headers, allow_redirects=False) as response,
        ):
            answer = await response.json()
            return answer if isinstance(answer, dict) else {}


def _sdk_version() -> str:
    try:
        return version("daytona")
    except PackageNotFoundError:
        return "unknown"
