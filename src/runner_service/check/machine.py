"""Checks of this machine: address, directories, programs and files."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from runner_service.addresses import overlap, parse_address
from runner_service.check.result import Check
from runner_service.server import BindError, TlsError, require_bindable
from runner_service.server.tls import server_credentials
from runner_service.settings import Settings
from runner_service.state_dir import find_service


async def listen_address_check(settings: Settings) -> Check:
    """Checks that the address is free."""
    try:
        for each in settings.listen_addresses():
            await require_bindable(parse_address(each))
    except BindError as error:
        if pid := await asyncio.to_thread(_own_service_at, settings):
            text = f"{settings.listen_address} is where the service with this STATE_DIR listens, pid {pid}"
            return Check("LISTEN_ADDRESS", "ok", text)
        text = str(error).removeprefix("LISTEN_ADDRESS: ")
        return Check("LISTEN_ADDRESS", "fail", text, "stop what listens there, or choose another LISTEN_ADDRESS")
    return Check("LISTEN_ADDRESS", "ok", f"{settings.listen_address} is free")


async def directory_check(variable: str, path: Path) -> Check:
    """Checks that the directory is writable, or can be created."""
    try:
        state = await asyncio.to_thread(_try_to_write, path)
    except OSError as error:
        next_step = f"make it writable for this user, or set {variable} to another directory"
        return Check(variable, "fail", f"{path} cannot be used: {error.strerror}", next_step)
    return Check(variable, "ok", f"{path} {state}")


async def program_check(name: str, consequence: str, next_step: str) -> Check:
    """Checks for an optional program."""
    found = await asyncio.to_thread(shutil.which, name)
    return Check(name, "ok", found) if found else Check(name, "warn", f"is not there: {consequence}", next_step)


async def tls_check(settings: Settings) -> Check:
    """Checks that the certificate files can be used."""
    make_credentials = server_credentials(settings, client_certificates=True)
    if make_credentials is None:
        return Check("TLS_CERT_FILE", "ok", "TLS is off")
    try:
        await asyncio.to_thread(make_credentials)
    except (OSError, TlsError) as error:
        return Check("TLS_CERT_FILE", "fail", str(error), "put a PEM certificate and the key that belongs to it there")
    return Check("TLS_CERT_FILE", "ok", f"{settings.tls_cert_file} and its key fit")


def _own_service_at(settings: Settings) -> int:
    """Returns the pid of the service that holds STATE_DIR, if that is who listens at LISTEN_ADDRESS; else 0."""
    found = find_service(settings.state_dir)
    first = parse_address(settings.listen_addresses()[0])
    is_there = found and overlap(parse_address(found.address), first)
    return found.pid if found and is_there else 0


def _try_to_write(path: Path) -> str:
    path = path.absolute()
    if path.is_dir():
        with tempfile.TemporaryFile(dir=path):
            return "can be written"
    nearest = next(parent for parent in path.parents if parent.exists())
    if path.exists() or not nearest.is_dir():
        raise NotADirectoryError(0, "it is no directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(0, f"{nearest} may not be written")
    return "can be made"
