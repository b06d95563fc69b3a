"""What commands and file tools change is found, and put back."""

from tests.executors.recorder import output

from runner_service.executors.protocol import Executor, Sandbox, SandboxSpec
from runner_service.executors.tracking import FoundChange, Restoration


async def test_what_changed_is_found_once_and_put_back_where_the_sandbox_lasts(executor: Executor) -> None:
    spec = SandboxSpec("execution-1", session_id="session-1")
    found: list[FoundChange] = []

    async def handle(change: FoundChange) -> None:
        found.append(change)

    async with executor.open(spec) as sandbox:
        await output(sandbox, "printf 'old\\0' > kept; echo gone > gone; ln -s kept link; mkdir d; echo 1 > d/f")
        tracking = sandbox.tracking
        assert tracking
        await tracking.begin()
        before = await seen(sandbox)
        await output(sandbox, "printf new > kept; rm gone; ln -sf d link; rm -r d; echo 2 > d; chmod +x kept")
        await sandbox.write_text("/written", "by a tool")
        await tracking.written(handle)
        assert [(change.path, change.is_exact) for change in found] == [("written", True)]
        await tracking.scan(handle)
        await tracking.scan(handle)
        by_path = {change.path: change for change in found}
        assert sorted(by_path) == ["d", "d/f", "gone", "kept", "link", "written"]
        await tracking.end()
        root = sandbox.root

    async with executor.open_restorer(spec, root) as restorer:
        ordered = sorted(by_path.values(), key=lambda each: (each.before is not None, -each.path.count("/")))
        assert await restorer.states([each.path for each in ordered]) == [each.after for each in ordered]
        await restorer.require_space(1000)
        await restorer.restore([put_back(each) for each in ordered])
    async with executor.open(spec) as sandbox:
        assert await seen(sandbox) == before


async def seen(sandbox: Sandbox) -> str:
    return await output(sandbox, "ls -lR --time-style=+ | grep -v ^total; cat kept d/f")


def put_back(change: FoundChange) -> Restoration:
    data = change.contents[change.before.sha256] if change.before else b""
    return Restoration(change.path, change.after, change.before, data)
