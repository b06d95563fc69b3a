"""Trials of the neighbours: whether somebody listens."""

import asyncio

from runner_service.addresses import Address, UnixAddress
from runner_service.check.result import Check

PATIENCE = 5.0
"""How many seconds a neighbour has to answer."""


async def reachable_check(variable: str, address: Address) -> Check:
    """Tries whether somebody takes connections at the address; nothing is sent."""
    try:
        async with asyncio.timeout(PATIENCE):
            await _connect(address)
    except TimeoutError:
        text = f"{address} does not answer within {PATIENCE:g} s"
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
