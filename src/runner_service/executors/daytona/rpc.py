"""The line to the attendant of a box: each request is one short `exec`, tried again until it is answered."""

import asyncio
import json
import logging
import math
import secrets
from typing import Any

from runner_service.executors.attendant.client import ANSWER
from runner_service.executors.attendant.spool import STREAMS
from runner_service.executors.daytona.box import Box
from runner_service.executors.daytona.bundle import WIRE, Bundle
from runner_service.executors.daytona.failures import Kind, ended
from runner_service.executors.daytona.retries import CallFailedError, patiently
from runner_service.executors.protocol import SandboxError

logger = logging.getLogger(__name__)

ANSWER_WITHIN = 60.0
"""How many seconds a request that waits for nothing may take, retries included, if its caller does not say."""

_MISSING = "runner-service-missing:"
_INSTALL_WITHIN = 30
_MOST_IN_A_VARIABLE = 90_000
_MOST_NONSENSE = 5
_PAUSE_AFTER_NONSENSE = 0.05


class Line:
    """Asks the attendant of one box for one execution, which is known there by the name of its `place`.

    What is asked may arrive more than once, and every request allows for that.
    """

    def __init__(self, box: Box, bundle: Bundle, *, place: str, slack: int) -> None:
        self._box = box
        self._slack = slack
        self._bundle = bundle
        self._script = _script(bundle.name, place)
        self._installing = asyncio.Lock()
        self._directory = self._install_to = ""

    async def directory(self) -> str:
        """Returns the attendant's own directory in the box, with the bundle in it."""
        while not self._directory:
            self._installed(await self._exec({"RUNNER_REQUEST": '{"do": "nothing"}'}, 0.0, ANSWER_WITHIN))
            if not self._directory:
                await self._install()
        return self._directory

    async def ask(
        self, request: dict[str, Any], *, wait: float = 0.0, patience: float = ANSWER_WITHIN
    ) -> dict[str, Any]:
        """Asks, and returns the answer.

        Args:
            request: what the attendant is to do.
            wait: how many seconds the attendant itself may take before it answers.
            patience: how many seconds all of it may take beyond that.

        Raises:
            SandboxError: there is no answer to be had.
        """
        variables = await self._variables(json.dumps(request, separators=(",", ":")))
        for _ in range(_MOST_NONSENSE):
            text = await self._exec(variables, wait, patience)
            if (answer := _answer_in(text)) is not None:
                return answer
            if not self._installed(text):
                await self._install()
            await asyncio.sleep(_PAUSE_AFTER_NONSENSE)
        raise SandboxError("the sandbox does not answer in a way that makes sense")

    async def _variables(self, request: str) -> dict[str, str]:
        if len(request) <= _MOST_IN_A_VARIABLE:
            return {"RUNNER_REQUEST": request}
        path = f"{await self.directory()}/transfers/{secrets.token_hex(8)}.request"
        await self._box.send(path, request.encode("ascii"))
        return {"RUNNER_REQUEST_FILE": path}

    async def _exec(self, variables: dict[str, str], wait: float, patience: float) -> str:
        """Calls; a box that was found stopped is started again on the way."""
        limit = math.ceil(wait) + self._slack

        async def attempt() -> str:
            return await self._box.execute(self._script, variables, limit)

        end = asyncio.get_running_loop().time() + wait + patience
        while True:
            left = end - asyncio.get_running_loop().time()
            try:
                return await patiently(
                    "a command", attempt, each=limit + self._slack, altogether=left, known=(Kind.MISSING, Kind.BUSY)
                )
            except CallFailedError as error:
                if left <= 0:
                    raise ended(error.failure, "a command") from None
                await self._box.revive()

    def _installed(self, text: str) -> bool:
        """Reads out of an answer where the attendant is, or is to be; False when it is not there."""
        _, is_missing, directory = text.partition(_MISSING)
        if is_missing:
            self._install_to = directory.strip()
            self._directory = ""
            return False
        if (at := text.find("runner-service-at:")) >= 0:
            self._directory = text[at:].partition("\n")[0].removeprefix("runner-service-at:")
        if not self._directory:
            raise SandboxError(
                "the sandbox has no shell that works; commands need bash and Python 3.11 in its snapshot"
            )
        return True

    async def _install(self) -> None:
        """Sends the bundle and unpacks it beside, so that it is there as a whole or not at all."""
        async with self._installing:
            archive = f"{self._install_to}.{secrets.token_hex(4)}.zip"
            await self._box.send(archive, self._bundle.data)
            script = _unpacking_script(archive, self._install_to)

            async def attempt() -> str:
                return await self._box.execute(script, {}, _INSTALL_WITHIN)

            answer = await patiently(
                "the installation", attempt, each=_INSTALL_WITHIN + self._slack, altogether=ANSWER_WITHIN
            )
            if "runner-service-installed" not in answer:
                raise SandboxError(
                    "the attendant cannot be installed; commands need bash and Python 3.11 in the snapshot"
                )
            logger.info("attendant_installed box=%s", self._box.name)


def _script(name: str, place: str) -> str:
    """Calls the attendant that has the place already, be it of another version of the service, else our own."""
    return (
        f't="${{TMPDIR:-/tmp}}"; d="$t/{name}"; '
        f'for p in "$t"/{WIRE}-*/openings/{place}; do [ -d "$p" ] && d="${{p%/openings/*}}"; done; '
        'if [ -f "$d/client.py" ]; then echo "runner-service-at:$d"; '
        f'exec python3 -I -S "$d/client.py"; else echo "{_MISSING}$d"; fi'
    )


def _unpacking_script(archive: str, directory: str) -> str:
    """Both paths are of names that we made below the box's own TMPDIR."""
    return (
        f'z="{archive}"; d="{directory}"; t="$z.d"; umask 077; python3 -I -m zipfile -e "$z" "$t" && '
        f'mkdir -p "$t/transfers" && {{ mv -T "$t" "$d" 2>/dev/null || rm -rf "$t"; }}; rm -f "$z"; '
        'test -f "$d/client.py" && echo runner-service-installed'
    )


def _answer_in(text: str) -> dict[str, Any] | None:
    """Finds the answer in what an exec has printed; None when there is none, or it is broken off."""
    _, found, rest = text.rpartition(ANSWER)
    if not found:
        return None
    line, _, bulk = rest.partition("\n")
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    if old := answer.get("too_old"):
        raise SandboxError(f"the snapshot has Python {old}; commands need Python 3.11 or newer in it")
    return _with_output(answer, bulk)


def _with_output(answer: dict[str, Any], bulk: str) -> dict[str, Any] | None:
    """Puts the output, whose sizes are in the answer, in its places; None when it is broken off."""
    end = 0
    for stream in STREAMS:
        size = answer.get(stream)
        if isinstance(size, int):
            start, end = end, end + size
            answer[stream] = bulk[start:end]
    return answer if len(bulk) >= end else None
