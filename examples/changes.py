"""Shows what an execution changed in files, and takes it back after asking.

python examples/changes.py localhost:50051 3f9a1c2b7d5e
"""

import asyncio
import sys

from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


async def show(client: RunnerClient, execution_id: str) -> None:
    async for change in client.list_file_changes(execution_id):
        kind = event_pb2.FileChange.Kind.Name(change.kind).removeprefix("KIND_")
        print(f"{kind} {change.path} +{change.lines_added} -{change.lines_removed}")
    diff = await client.get_diff(runner_pb2.GetDiffRequest(execution_id=execution_id))
    print(diff.diff, end="")


async def undo(client: RunnerClient, execution_id: str) -> None:
    request = runner_pb2.RevertChangesRequest(execution_id=execution_id, dry_run=True)
    would = await client.revert_changes(request)
    for conflict in would.conflicts:
        print(f"{conflict.path} stays: {conflict.reason}")
    if not would.reverted:
        return
    answer = await asyncio.to_thread(input, f"put {len(would.reverted)} files back? [y/n] ")
    if answer.strip().lower() == "y":
        # What is edited after the question is a conflict too: then nothing is written, unless conflicts are skipped.
        request = runner_pb2.RevertChangesRequest(execution_id=execution_id, skip_conflicts=bool(would.conflicts))
        done = await client.revert_changes(request)
        print(f"{len(done.reverted)} files put back")


async def main(address: str, execution_id: str) -> None:
    async with RunnerClient(address) as client:
        await show(client, execution_id)
        await undo(client, execution_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
