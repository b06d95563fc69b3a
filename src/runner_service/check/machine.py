"""Trials of this machine: the address, directories, programs and files."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from runner_service.addresses import parse_address
from runner_service.check.result import Check
from runner_service.server import BindError, TlsError, check_bindable
from runner_service.server.tls import server_credentials
from runner_service.settings import Settings


async def listen_address_check(settings: Settings) -> Check:
    """Tries whether the address is free."""
    try:
        await check_bindable(parse_address(settings.listen_address))
    except BindError as error:
        text = str(error).removeprefix("LISTEN_ADDRESS: ")
        return Check("LISTEN_ADDRESS", "fail", text, "nothing, if what listens there is this very service")
    return Check("LISTEN_ADDRESS", "ok", f"{settings.listen_address} is free")


async def directory_check(variable: str, path: Path) -> Check:
    """Tries whether a file can be made in the directory, or the directory itself where it is not there yet."""
    try:
        state = await asyncio.to_thread(_try_to_write, path)
    except OSError as error:
        next_step = f"make it writable for this user, or set {variable} to another directory"
        return Check(variable, "fail", f"{path} cannot be used: {error.strerror}", next_step)
    return Check(variable, "ok", f"{path} {state}")


async def program_check(name: str, consequence: str, next_step: str) -> Check:
    """Looks for a program that is not strictly needed."""
    found = await asyncio.to_thread(shutil.which, name)
    return Check(name, "ok", found) if found else Check(name, "warn", f"is not there: {consequence}", next_step)


async def tls_check(settings: Settings) -> Check:
    """Tries whether the certificate files can be used."""
    make_credentials = server_credentials(settings)
    if make_credentials is None:
        return Check("TLS_CERT_FILE", "ok", "TLS is off")
    try:
        await asyncio.to_thread(make_credentials)
    except (OSError, TlsError) as error:
        return Check("TLS_CERT_FILE", "fail", str(error), "put a PEM certificate and the key that belongs to it there")
    return Check("TLS_CERT_FILE", "ok", f"{settings.tls_cert_file} and its key fit")


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
