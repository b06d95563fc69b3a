"""Checks CALLERS_FILE, and says who may do what."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner_service.api.callers.directory import Directory
from runner_service.api.callers.file import CallerEntry, CallersFile, SocketEntry, read_callers_file
from runner_service.api.callers.file_errors import CallersFileError
from runner_service.api.callers.isolation import require_isolation
from runner_service.api.callers.issuers_file import IssuerEntry
from runner_service.check.result import Check
from runner_service.settings import Settings

_WARNING = timedelta(days=14)


async def callers_checks(settings: Settings, path: Path) -> list[Check]:
    """Returns a check of the file, one for each caller, and warnings of what is about to end."""
    try:
        file = await asyncio.to_thread(read_callers_file, path)
        require_isolation(settings, Directory(file))
    except CallersFileError as error:
        return [Check("CALLERS_FILE", "fail", str(error), "correct it: `serve` does not start with it")]
    tenants = ", ".join(sorted(file.tenant_names()))
    return [
        Check("CALLERS_FILE", "ok", f"{path} names the tenants {tenants}"),
        *map(_caller, file.callers),
        *map(_caller, file.sockets),
        *map(_issuer, file.issuers),
        *_expiries(file),
    ]


def _caller(entry: CallerEntry | SocketEntry) -> Check:
    roles = ", ".join(entry.roles)
    whose = "every tenant" if "operate" in entry.roles else ", ".join(sorted({entry.tenant, *entry.acts_for}))
    return Check(f"caller {entry.name}", "ok", f"may {roles} for {whose}, by {', '.join(_credentials(entry))}")


def _issuer(entry: IssuerEntry) -> Check:
    rules = "; ".join(
        f"{', '.join(f'{name}={value}' for name, value in rule.match.items())} may {', '.join(rule.roles)} for "
        f"{'every tenant' if 'operate' in rule.roles else ', '.join(sorted(rule.all_tenants()))}"
        for rule in entry.rules
    )
    return Check(f"issuer {entry.name}", "ok", rules)


def _credentials(entry: CallerEntry | SocketEntry) -> Iterator[str]:
    if isinstance(entry, SocketEntry):
        yield f"the socket {entry.path} (mode {entry.mode})"
        return
    also = f" with the certificate {' or '.join(entry.with_certificates)}" if entry.with_certificates else ""
    for token in entry.tokens:
        yield f"token {token.id}{also}" + (f" until {token.expires:%Y-%m-%d %H:%M %Z}" if token.expires else "")
    for name in entry.certificates:
        yield f"certificate {name}"


def _expiries(file: CallersFile) -> Iterator[Check]:
    now = datetime.now(UTC)
    for name, token, expires in file.expiries():
        if expires <= now + _WARNING:
            text = f"its token {token} {'has expired' if expires <= now else f'expires {expires:%Y-%m-%d %H:%M %Z}'}"
            next_step = f"add another one (runner-service token new {name}), then remove this"
            yield Check(f"caller {name}", "warn", text, next_step)
