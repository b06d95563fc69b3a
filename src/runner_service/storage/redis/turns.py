"""The turns of sessions: a list of executions for each, of which the first one may run."""

import time

from runner_service import states
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import DeploymentKeys, ExecutionKeys
from runner_service.storage.redis.reading import read_records

_INTERRUPTED_GRACE_SECONDS = 3.0


class RedisTurns:
    """Implements `Turns`."""

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def join(self, session_id: str, execution_id: str) -> None:
        """Implements `Turns`."""
        await self._connection.script("join", [self._keys.turns(session_id)], [execution_id])

    async def leave(self, session_id: str, execution_id: str) -> bool:
        """Implements `Turns`."""
        if not await self._is_gone(execution_id):
            return False
        await self._connection.call("LREM", self._keys.turns(session_id), 0, execution_id)
        return True

    async def is_first(self, session_id: str, execution_id: str) -> bool:
        """Implements `Turns`."""
        reply = await self._connection.script("join", [self._keys.turns(session_id)], [execution_id])
        first = reply.decode()
        if first == execution_id:
            return True
        await self.leave(session_id, first)  # its replica may have died before it did
        return False

    async def _is_gone(self, execution_id: str) -> bool:
        """Whether an execution has ended, was left INTERRUPTED, or never began."""
        stored = (await read_records(self._connection, [execution_id]))[0]
        if stored is None:
            return not await self._connection.call("EXISTS", ExecutionKeys(execution_id).record)
        state = stored.execution.execution.state
        is_left = states.is_interrupted(state) and time.time() - stored.changed > _INTERRUPTED_GRACE_SECONDS
        return states.is_final(state) or is_left
