"""Client of a sandbox's attendant: each request is one short `exec`, retried until answered."""

import asyncio
import json
import logging
import math
import secrets
from typing import Any

from runner_service.executors.attendant.output_buffer import STREAMS
from runner_service.executors.attendant.relay import ANSWER
from runner_service.executors.daytona.bundle import WIRE, Bundle
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.remote_sandbox import RemoteSandbox
from runner_service.executors.protocol import SandboxError

logger = logging.getLogger(__name__)

_MISSING = "runner-service-missing:"
_INSTALL_TIMEOUT_SECONDS = 30
_MAX_VARIABLE_BYTES = 90_000
_MAX_UNREADABLE_RESPONSES = 5
_UNREADABLE_BACKOFF_SECONDS = 0.05


class AttendantClient:
    """Sends requests to the attendant for one execution, known there by its `session_directory`.

    A request may arrive more than once; all requests are idempotent.
    """

    def __init__(self, remote: RemoteSandbox, bundle: Bundle, *, session_directory: str, config: SandboxConfig) -> None:
        self._remote_sandbox = remote
        self._config = config
        self._bundle = bundle
        self._script = _script(bundle.name, session_directory)
        self._installing = asyncio.Lock()
        self._directory = self._install_to = ""

    async def directory(self) -> str:
        """Returns the directory in the sandbox where the bundle is installed."""
        while not self._directory:
            self._installed(await self._exec({"RUNNER_REQUEST": '{"do": "nothing"}'}, 0.0, self._config.outage_timeout))
            if not self._directory:
                await self._install()
        return self._directory

    async def request(
        self, request: dict[str, Any], *, wait: float = 0.0, response_timeout: float | None = None
    ) -> dict[str, Any]:
        """Sends a request and returns the response.

        Args:
            request: the message for the attendant.
            wait: how many seconds the attendant may hold the request.
            response_timeout: seconds for the whole call beyond `wait`, retries included; by default, as
                long as an outage may take.

        Raises:
            SandboxError: no response.
        """
        variables = await self._variables(json.dumps(request, separators=(",", ":")))
        timeout = self._config.outage_timeout if response_timeout is None else response_timeout
        for _ in range(_MAX_UNREADABLE_RESPONSES):
            text = await self._exec(variables, wait, timeout)
            if (response := _parse_response(text)) is not None:
                return response
            if not self._installed(text):
                await self._install()
            await asyncio.sleep(_UNREADABLE_BACKOFF_SECONDS)
        raise SandboxError("the sandbox answers with something unreadable")

    async def _variables(self, request: str) -> dict[str, str]:
        if len(request) <= _MAX_VARIABLE_BYTES:
            return {"RUNNER_REQUEST": request}
        path = f"{await self.directory()}/transfers/{secrets.token_hex(8)}.request"
        await self._remote_sandbox.upload(path, request.encode("ascii"))
        return {"RUNNER_REQUEST_FILE": path}

    async def _exec(self, variables: dict[str, str], wait: float, response_timeout: float) -> str:
        """Runs the relay script."""
        return await self._remote_sandbox.execute(
            "a command",
            self._script,
            variables,
            math.ceil(wait) + self._config.response_margin,
            margin=self._config.response_margin,
            total_timeout=wait + response_timeout,
        )

    def _installed(self, text: str) -> bool:
        """Reads the attendant's directory from an output; false if it is not installed there."""
        _, is_missing, directory = text.partition(_MISSING)
        if is_missing:
            self._install_to = directory.strip()
            self._directory = ""
            return False
        if (at := text.find("runner-service-at:")) >= 0:
            self._directory = text[at:].partition("\n")[0].removeprefix("runner-service-at:")
        if not self._directory:
            raise SandboxError("the sandbox has no working shell; commands need bash and Python 3.11 in its snapshot")
        return True

    async def _install(self) -> None:
        """Uploads the bundle and unpacks it atomically."""
        async with self._installing:
            archive = f"{self._install_to}.{secrets.token_hex(4)}.zip"
            await self._remote_sandbox.upload(archive, self._bundle.data)
            script = _unpacking_script(archive, self._install_to)

            response = await self._remote_sandbox.execute(
                "the installation",
                script,
                {},
                _INSTALL_TIMEOUT_SECONDS,
                margin=self._config.response_margin,
                total_timeout=self._config.outage_timeout,
            )
            if "runner-service-installed" not in response:
                raise SandboxError(
                    "the attendant cannot be installed; commands need bash and Python 3.11 in the snapshot"
                )
            logger.info("attendant_installed sandbox=%s", self._remote_sandbox.name)


def _script(name: str, session_directory: str) -> str:
    """Calls the attendant that has the session already, possibly of another version, else our own."""
    return (
        f't="${{TMPDIR:-/tmp}}"; d="$t/{name}"; '
        f'for p in "$t"/{WIRE}-*/openings/{session_directory}; do [ -d "$p" ] && d="${{p%/openings/*}}"; done; '
        'if [ -f "$d/client.py" ]; then echo "runner-service-at:$d"; '
        f'exec python3 -I -S "$d/client.py"; else echo "{_MISSING}$d"; fi'
    )


def _unpacking_script(archive: str, directory: str) -> str:
    """Both paths are below the sandbox's TMPDIR, with names of our own."""
    return (
        f'z="{archive}"; d="{directory}"; t="$z.d"; umask 077; python3 -I -m zipfile -e "$z" "$t" && '
        f'mkdir -p "$t/transfers" && {{ mv -T "$t" "$d" 2>/dev/null || rm -rf "$t"; }}; rm -f "$z"; '
        'test -f "$d/client.py" && echo runner-service-installed'
    )


def _parse_response(text: str) -> dict[str, Any] | None:
    """Parses the response in the output of an exec; None if it is missing or truncated."""
    _, found, rest = text.rpartition(ANSWER)
    if not found:
        return None
    line, _, bulk = rest.partition("\n")
    try:
        response = json.loads(line)
    except ValueError:
        return None
    if not isinstance(response, dict):
        return None
    if old := response.get("too_old"):
        raise SandboxError(f"the snapshot has Python {old}; commands need Python 3.11 or newer in it")
    return _with_output(response, bulk)


def _with_output(response: dict[str, Any], bulk: str) -> dict[str, Any] | None:
    """Fills in the output, whose sizes are in the response; None if it is truncated."""
    end = 0
    for stream in STREAMS:
        size = response.get(stream)
        if isinstance(size, int):
            start, end = end, end + size
            response[stream] = bulk[start:end]
    return response if len(bulk) >= end else None
