"""`delete`."""

import asyncio

import click

from runner_service.cli.connection import connected_for_reading
from runner_service.cli.target import Target
from runner_service.cli.views.wording import counted


def delete_executions(execution_ids: tuple[str, ...], session_id: str, target: Target) -> None:
    """Deletes executions, or a session. Raises CommandError."""
    asyncio.run(_delete(execution_ids, session_id, target))


async def _delete(execution_ids: tuple[str, ...], session_id: str, target: Target) -> None:
    async with connected_for_reading(target) as connection:
        for execution_id in execution_ids:
            await connection.client.delete(execution_id)
            click.echo(f"{execution_id} deleted")
        if session_id:
            deleted = await connection.client.delete_session(session_id)
            click.echo(f"session {session_id} deleted, with {counted(deleted, 'execution')}")
