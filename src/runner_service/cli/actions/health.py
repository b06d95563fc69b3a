"""`health`."""

import asyncio
import os

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.target import Target
from runner_service.state_dir import find_service, state_dir_from

_TIMEOUT_SECONDS = 5.0


def check_health(target: Target) -> None:
    """Returns if the service takes new executions.

    A service that wants TLS is only asked whether it accepts connections, unless --tls or --ca-file says whom to trust.

    Raises:
        CommandError: it does not, or there is none.
    """
    address = target.server
    if address is None:
        state_dir = state_dir_from(os.environ)
        found = find_service(state_dir)
        if found is None or found.is_stopping:
            raise CommandError(f"no service holds STATE_DIR {state_dir}", ExitCode.UNAVAILABLE)
        address = found.address
        if os.environ.get("TLS_CERT_FILE") and not target.uses_tls:
            return
    if not asyncio.run(_is_ready(address, target)):
        raise CommandError(f"the service at {address} takes no executions now", ExitCode.FAILED)


async def _is_ready(address: str, target: Target) -> bool:
    from runner_service.cli.connection import certificate_of, explained_rpc_errors  # noqa: PLC0415  # gRPC, where needed
    from runner_service.client import RunnerClient  # noqa: PLC0415  # the same

    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            with explained_rpc_errors():
                async with RunnerClient(
                    address, ca=target.ca() if target.uses_tls else None, certificate=certificate_of(target)
                ) as client:
                    return await client.is_ready()
    except TimeoutError:
        raise CommandError(f"the service at {address} does not answer", ExitCode.UNAVAILABLE) from None
