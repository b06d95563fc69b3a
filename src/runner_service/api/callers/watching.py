"""Reads CALLERS_FILE again when it changes, and ends the calls that it no longer allows.

What reads and verifies is imported only where there is something of it: together it is a third of the service's memory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner_service.api.auth import authentication
from runner_service.api.callers.file_errors import CallersFileError
from runner_service.api.callers.file_versions import version_of
from runner_service.api.callers.isolation import require_isolation
from runner_service.api.callers.open_calls import AdmittedCalls
from runner_service.api.callers.sources import Callers
from runner_service.executions.audit import Audit
from runner_service.executions.tenant_limits import Tenants
from runner_service.identity import DEFAULT_TENANT
from runner_service.settings import Settings
from runner_service.storage.event_log import LogError
from runner_service.telemetry import metrics

if TYPE_CHECKING:
    from runner_service.api.callers.directory import Directory
    from runner_service.api.callers.issuers import Issuers

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS = 1.0


class KnownCallers(Callers):
    """Everybody who may call, with their open calls. Construct it with `known_callers`."""

    def __init__(self, settings: Settings) -> None:
        """Reads the files that the settings name. Raises CallersFileError, OSError."""
        self._settings = settings
        self._path = settings.callers_file
        self._version = version_of(self._path) if self._path else None
        super().__init__(authentication(settings), _read_directory(self._path) if self._path else None)
        self.tenants = Tenants(self.directory.file.tenant_limits() if self.directory else {})
        if settings.tls_client_ca_file and self.directory:
            from runner_service.api.callers.authorities import Authorities  # noqa: PLC0415  # as above

            with suppress(ValueError):  # which the server, needing the file as well, tells better
                self.authorities = Authorities(settings.tls_client_ca_file)
        self.is_file_unusable = False
        """True while CALLERS_FILE is wrong, and an earlier one in force."""
        self.end_executions_of: Callable[[str], Awaitable[None]] = _end_nothing
        """Ends what a tenant has that the file no longer names. Raises LogError."""
        self._removed_tenants: set[str] = set()
        self.audit = Audit()
        self.calls = AdmittedCalls(self.tenants, self.audit)

    async def configure_issuers(self) -> None:
        """Takes the issuers of the directory. Their keys are read when they are needed, or by `watch_keys`."""
        if self.directory is None:
            return
        metrics.set_tenants(self.directory.file.tenant_names())
        entries = self.directory.file.issuers
        if entries and self.issuers is None:
            self.issuers = await asyncio.to_thread(_no_issuers)
        if self.issuers:
            self.issuers.configure(entries)

    def gauges(self) -> dict[metrics.Gauge, metrics.Reading]:
        """Returns the gauges of what names callers."""
        return {
            metrics.JWKS_AGE: lambda: self.issuers.ages() if self.issuers else {},
            metrics.CALLERS_FILE_UNUSABLE: lambda: float(self.is_file_unusable),
        }

    async def watch_files(self) -> None:
        """Looks at the files every second, and ends what is no longer allowed."""
        is_changed = self._path is not None and await self._reload_if_changed(self._path)
        has_other_authorities = self.authorities is not None and await self.authorities.reload_if_changed()
        has_other_token = self.operator.has_other_token()
        await self.calls.end_refused(is_changed=is_changed or has_other_authorities or has_other_token)
        await self._end_removed_tenants()

    async def _end_removed_tenants(self) -> None:
        for tenant in sorted(self._removed_tenants):
            try:
                await self.end_executions_of(tenant)
            except LogError as error:
                logger.warning("tenant_not_ended tenant=%s error=%s", tenant, error)
                return
            self._removed_tenants.discard(tenant)

    async def watch_keys(self) -> None:
        """Reads the keys of issuers whose time has come; apart from the files, since an issuer may not answer."""
        if self.issuers is not None and await self.issuers.refresh_due():
            await self.calls.end_refused(is_changed=True)

    async def _reload_if_changed(self, path: Path) -> bool:
        version = await asyncio.to_thread(version_of, path)
        if version == self._version:
            return False
        before = self.directory.file.tenant_names() if self.directory else frozenset[str]()
        self._version = version
        try:
            directory = await asyncio.to_thread(_read_directory, path)
            require_isolation(self._settings, directory)
        except CallersFileError as error:
            self.is_file_unusable = True
            logger.error("callers_file_unusable consequence=the_earlier_one_holds reason=%s", error)  # noqa: TRY400  # its text says all
            return False
        self.directory, self.is_file_unusable = directory, False
        now = self.directory.file.tenant_names()
        self._removed_tenants = (self._removed_tenants | before) - now - {self._settings.stigmer_tenant, DEFAULT_TENANT}
        self.tenants.replace(self.directory.file.tenant_limits())
        await self.configure_issuers()
        file = self.directory.file
        logger.info("callers_file_read callers=%d digest=%.12s", len(file.callers), file.digest)
        return True


@asynccontextmanager
async def known_callers(settings: Settings) -> AsyncIterator[KnownCallers]:
    """Reads who may call, and watches for changes until the context ends.

    Raises:
        CallersFileError: CALLERS_FILE cannot be used.
    """
    callers = await asyncio.to_thread(KnownCallers, settings)
    await callers.configure_issuers()
    watching = [
        asyncio.create_task(_repeat(callers.watch_files), name="watch-callers"),
        asyncio.create_task(_repeat(callers.watch_keys), name="watch-keys"),
    ]
    try:
        with metrics.gauges_observed(callers.gauges()):
            yield callers
    finally:
        for each in watching:
            each.cancel()
        await asyncio.wait(watching)


def _read_directory(path: Path) -> "Directory":
    from runner_service.api.callers.directory import Directory  # noqa: PLC0415  # as above
    from runner_service.api.callers.file import read_callers_file  # noqa: PLC0415  # as above

    return Directory(read_callers_file(path))


def _no_issuers() -> "Issuers":
    from runner_service.api.callers.issuers import Issuers  # noqa: PLC0415  # as above

    return Issuers()


async def _end_nothing(_: str) -> None:
    pass


async def _repeat(look: Callable[[], Awaitable[None]]) -> None:
    """Looks every second, for ever: a defect must not end the revocation of what others are no longer allowed."""
    while True:
        await asyncio.sleep(_CHECK_INTERVAL_SECONDS)
        try:
            await look()
        except Exception:
            logger.exception("watching_callers_failed")
