"""Client of a sandbox's attendant: each request is one short `exec`, retried until answered."""

import asyncio
import base64
import json
import logging
import math
import secrets
import shlex
from collections.abc import Sequence
from typing import Any

from runner_service.executors.attendant.relay import MAX_VARIABLES, VARIABLE
from runner_service.executors.daytona.bundle import WIRE, Bundle
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.decoding import decode_response
from runner_service.executors.daytona.remote_sandbox import RemoteSandbox
from runner_service.executors.protocol import SandboxError

logger = logging.getLogger(__name__)

_AT = "runner-service-at:"
_MISSING = "runner-service-missing"
_NO_SPACE = "No space left on device"
_INSTALL_TIMEOUT_SECONDS = 30
_MAX_VARIABLE_CHARS = 90_000
_MAX_ARGUMENT_CHARS = 90_000
_MAX_UNREADABLE_RESPONSES = 5
_UNREADABLE_BACKOFF_SECONDS = 0.05


class AttendantClient:
    """Sends requests to the attendant for one execution, known there by its `session_directory`.

    A request may arrive more than once; all requests are idempotent. They travel in variables, which are in no list of
    processes and in no log of requests. `installs` says that the attendant is likely to be missing, so that the first
    request brings it.
    """

    def __init__(
        self,
        remote: RemoteSandbox,
        bundle: Bundle,
        *,
        session_directory: str,
        config: SandboxConfig,
        installs: bool = False,
    ) -> None:
        self._remote_sandbox = remote
        self._config = config
        self._bundle = bundle
        self._session_directory = session_directory
        self._is_missing = installs
        self.directory = ""

    async def request(
        self, request: dict[str, Any], *, wait: float = 0.0, response_timeout: float | None = None, cwd: str = "/"
    ) -> dict[str, Any]:
        """Sends a request and returns the response, after installing the attendant if it is missing.

        Args:
            request: the message for the attendant.
            wait: how many seconds the attendant may hold the request.
            response_timeout: seconds for the whole call beyond `wait`, retries included; by default, as
                long as an outage may take.
            cwd: where the relay is started; empty for the working directory of the snapshot, which the
                attendant is told.

        Raises:
            SandboxError: no response.
        """
        text = json.dumps(request, separators=(",", ":"))
        timeout = self._config.outage_timeout if response_timeout is None else response_timeout
        for _ in range(_MAX_UNREADABLE_RESPONSES):
            output = await self._exec(await self._variables(text), wait, timeout, cwd)
            if self._is_installed(output):
                response = await decode_response(output)
                if response is not None and "request_missing" not in response:
                    return response
            elif not self._is_missing:
                cwd = self._other_directory(cwd)
            await asyncio.sleep(_UNREADABLE_BACKOFF_SECONDS)
        raise SandboxError("the sandbox answers with something unreadable")

    async def _variables(self, request: str) -> dict[str, str]:
        """Returns the request in variables; one that is too long is uploaded, and removed when it is read."""
        parts = _parts(request, _MAX_VARIABLE_CHARS)
        if len(parts) <= MAX_VARIABLES:
            return {f"{VARIABLE}_{number}": part for number, part in enumerate(parts)}
        if not self.directory:
            await self.request({"do": "ping"})
        path = f"{self.directory}/transfers/{secrets.token_hex(8)}.request"
        await self._remote_sandbox.upload(path, request.encode("ascii"))
        return {f"{VARIABLE}_FILE": path}

    async def _exec(self, variables: dict[str, str], wait: float, response_timeout: float, cwd: str) -> str:
        seconds = math.ceil(wait) + self._config.response_margin
        if self._is_missing:
            seconds += _INSTALL_TIMEOUT_SECONDS
        bundle = self._bundle if self._is_missing else None
        return await self._remote_sandbox.execute(
            "a command",
            _script(self._bundle.name, self._session_directory, installed=bundle, tells_cwd=not cwd),
            variables,
            seconds,
            margin=self._config.response_margin,
            total_timeout=wait + response_timeout,
            cwd=cwd,
        )

    def _is_installed(self, output: str) -> bool:
        """Reads from an output where the attendant is. Raises SandboxError if it cannot be installed."""
        if (at := output.find(_AT)) >= 0:
            if self._is_missing:
                logger.info("attendant_installed sandbox=%s", self._remote_sandbox.name)
            self._is_missing = False
            self.directory = output[at:].partition("\n")[0].removeprefix(_AT)
            return True
        if _MISSING in output:
            if self._is_missing:
                why = (
                    "its disk is full" if _NO_SPACE in output else "commands need bash and Python 3.11 in the snapshot"
                )
                raise SandboxError(f"the attendant cannot be installed in the sandbox: {why}")
            self._is_missing = True
        return False

    def _other_directory(self, cwd: str) -> str:
        """Returns where to try next, after a shell that did not come up: the working directory may be gone."""
        if cwd and not self.directory:
            raise SandboxError("the sandbox has no working shell; commands need bash and Python 3.11 in its snapshot")
        return "/"


def _script(name: str, session_directory: str, *, installed: Bundle | None, tells_cwd: bool) -> str:
    """Returns what calls the attendant that has the session already, possibly of another version, else our own.

    For bash, whatever shell it is given to; the bundle is in its arguments, if it is to be installed.
    """
    parts = [
        f"export {VARIABLE}_CWD=$PWD; " if tells_cwd else "",
        f't="${{TMPDIR:-/tmp}}"; d="$t/{name}"; ',
        f'for p in "$t"/{WIRE}-*/sessions/{session_directory}; do [ -d "$p" ] && d="${{p%/sessions/*}}"; done; ',
        f'[ -f "$d/relay.py" ] || ( {_INSTALL} ); ' if installed else "",
        f'if [ -f "$d/relay.py" ]; then echo "{_AT}$d"; exec python3 -I -S "$d/relay.py"; else echo "{_MISSING}"; fi',
    ]
    arguments = _parts(base64.b64encode(installed.data).decode(), _MAX_ARGUMENT_CHARS) if installed else []
    return shlex.join(["exec", "bash", "-c", "".join(parts), "bash", *arguments])


_INSTALL = (
    'umask 077; z="$d.$$"; printf %s "$@" | base64 -d > "$z.zip" && python3 -I -m zipfile -e "$z.zip" "$z" && '
    'mkdir -p "$z/transfers" && { mv -T "$z" "$d" 2>/dev/null || rm -rf "$z"; }; rm -f "$z.zip"'
)
"""Unpacks the bundle beside its place, so that it is there as a whole or not at all."""


def _parts(text: str, size: int) -> Sequence[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
