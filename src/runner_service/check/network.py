"""Checks that endpoints accept connections."""

import asyncio

from runner_service.addresses import Address, UnixAddress
from runner_service.check.result import Check

TIMEOUT_SECONDS = 5.0
"""How long an endpoint may take to answer."""


async def reachable_check(variable: str, address: Address) -> Check:
    """Checks that the address accepts connections; sends nothing."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await _connect(address)
    except TimeoutError:
        text = f"{address} does not answer within {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        text = f"{address} cannot be reached: {error.strerror or error}"
    else:
        return Check(variable, "ok", f"{address} takes connections")
    return Check(variable, "fail", text, f"start what should listen there, or correct {variable}")


async def _connect(address: Address) -> None:
    if isinstance(address, UnixAddress):
        _, writer = await asyncio.open_unix_connection(address.path)
    else:
        _, writer = await asyncio.open_connection(address.host, address.port)
    writer.close()
    await writer.wait_closed()
