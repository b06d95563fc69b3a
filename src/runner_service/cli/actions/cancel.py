"""`cancel`."""

import asyncio

import click

from runner_service import states
from runner_service.cli.connection import connected_for_reading
from runner_service.cli.target import Target
from runner_service.cli.views import wording


def cancel_execution(execution_id: str, reason: str, target: Target) -> None:
    """Cancels an execution, and prints its state. Raises CommandError."""
    state = asyncio.run(_cancel(execution_id, reason, target))
    word = wording.state_name(state)
    click.echo(
        f"{execution_id} had already ended: {word}" if states.is_final(state) else f"{execution_id} was {word}: ending"
    )


async def _cancel(execution_id: str, reason: str, target: Target) -> states.State:
    async with connected_for_reading(target) as connection:
        return await connection.client.cancel(execution_id, reason)
