"""The fake daemon as a process that can be killed: it keeps everything in files.

python -m tests.temporal.daemon_process DIRECTORY ADDRESS TEMPORAL_ADDRESS QUEUE
"""

import asyncio
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from temporalio.client import Client
from tests.stigmer.fake_daemon import FakeDaemon, served
from tests.temporal.daemon_workflow import daemon_worker

from runner_service.stigmer.wire import agent_pb2, agentinstance_pb2, session_pb2
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

Key = tuple[str, str]

_TYPES: dict[str, Any] = {
    "agent": agent_pb2.Agent,
    "execution": execution_pb2.AgentExecution,
    "instance": agentinstance_pb2.AgentInstance,
    "session": session_pb2.Session,
}


class Files(MutableMapping[Key, Any]):
    """Resources by kind and name, a file each; what was read is kept, and changed in place until it is saved."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._loaded: dict[Key, Any] = {}

    def __getitem__(self, key: Key) -> Any:
        if key not in self._loaded:
            try:
                self._loaded[key] = _TYPES[key[0]].FromString(self._path(key).read_bytes())
            except FileNotFoundError:
                raise KeyError(key) from None
        return self._loaded[key]

    def __setitem__(self, key: Key, resource: Any) -> None:
        self._loaded[key] = resource
        self.save(key)

    def __delitem__(self, key: Key) -> None:
        del self._loaded[key]
        self._path(key).unlink()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def save(self, key: Key) -> None:
        """Writes a resource, in a way that survives a kill."""
        new = self._directory / f"{key[1]}.new"
        new.write_bytes(self._loaded[key].SerializeToString())
        new.rename(self._path(key))

    def _path(self, key: Key) -> Path:
        return self._directory / f"{key[0]}~{key[1]}"


class StoredDaemon(FakeDaemon):
    """A daemon whose resources survive it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.files = Files(directory)
        self.resources = self.files

    def merge(self, report: execution_pb2.AgentExecutionUpdateStatusInput) -> None:
        """Stores the merged status before it is acknowledged."""
        super().merge(report)
        self.files.save(("execution", report.execution_id))

    def fail(self, name: str, *lines: str) -> None:
        """Stores what the workflow has made of an execution."""
        super().fail(name, *lines)
        self.files.save(("execution", name))


async def _serve(directory: str, address: str, temporal: str, queue: str) -> None:
    daemon = StoredDaemon(Path(directory))
    async with served(daemon, address):
        while True:
            try:
                client = await Client.connect(temporal)
                async with daemon_worker(client, daemon, queue):
                    await asyncio.Event().wait()
            except RuntimeError:  # Temporal is not there
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
