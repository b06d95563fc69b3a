"""The file tools of a confined execution, which run in the service, get no further than its commands."""

import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally
from tests.executors.recorder import output

from runner_service.executors.confinement import Confinement
from runner_service.executors.protocol import FileError, Sandbox, SandboxSpec

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


async def chunks() -> AsyncIterator[bytes]:
    yield b"x"


async def downloaded(sandbox: Sandbox, path: str) -> bytes:
    return b"".join([chunk async for chunk in sandbox.download(path)])


READ: dict[str, Callable[[Sandbox, str], Awaitable[object]]] = {
    "read": lambda sandbox, path: sandbox.read_text(path),
    "download": downloaded,
    "grep": lambda sandbox, path: sandbox.grep("secret", path),
}
WRITE: dict[str, Callable[[Sandbox, str], Awaitable[object]]] = {
    "write": lambda sandbox, path: sandbox.write_text(path, "x"),
    "edit": lambda sandbox, path: sandbox.edit_text(path, "secret", "x"),
    "delete": lambda sandbox, path: sandbox.delete(path),
    "upload": lambda sandbox, path: sandbox.upload(path, chunks()),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "deep" / "hidden").mkdir(parents=True)
    (root / "deep" / "hidden" / "file").write_text("secret")
    (root / "plain").write_text("secret")
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / ".git" / "config").write_text("secret")
    (root / ".git" / "modules" / "part").mkdir(parents=True)
    (root / ".git" / "modules" / "part" / "config").write_text("secret")
    (root / "way").symlink_to(".git")
    (root / "to-hidden").symlink_to("deep/hidden")
    return root


@pytest.fixture
async def sandbox(tmp_path: Path, root: Path) -> AsyncIterator[Sandbox]:
    level = Confinement(files="workspace", hidden_paths=(str(root / "deep" / "hidden"),))
    async with opened_locally(tmp_path) as executor, executor.open(SandboxSpec("e", confinement=level)) as opened:
        yield opened


async def refusal(attempt: Awaitable[object]) -> str:
    with pytest.raises(FileError) as refused:
        await attempt
    return refused.value.code


@pytest.mark.parametrize("path", ["/deep/hidden/file", "/to-hidden/file", "/deep/../deep/hidden/file"])
async def test_what_is_hidden_is_neither_read_nor_changed(sandbox: Sandbox, root: Path, path: str) -> None:
    for name, operation in {**READ, **WRITE}.items():
        assert await refusal(operation(sandbox, path)) == "permission_denied", name
    assert (root / "deep" / "hidden" / "file").read_text() == "secret"


async def test_what_is_hidden_is_not_found(sandbox: Sandbox) -> None:
    assert [Path(match.path).name for match in (await sandbox.grep("secret")).items] == ["plain"]
    assert [Path(entry.path).name for entry in (await sandbox.glob("**/*")).items] == ["plain"]


PROTECTED = [
    "/.git/hooks/post-commit",
    "/.git/hooks/new/deeper",
    "/.git/config",
    "/.git/config.worktree",
    "/.git/commondir",
    "/.git/modules/part/config",
    "/.git/modules/part/hooks/post-commit",
    "/way/config",
    "/new/.git/hooks/post-commit",
    "/.git",
]


@pytest.mark.parametrize("path", PROTECTED)
async def test_what_git_acts_on_is_not_changed(sandbox: Sandbox, root: Path, path: str) -> None:
    for name, operation in WRITE.items():
        with pytest.raises(FileError) as refused:
            await operation(sandbox, path)
        assert refused.value.code in {"permission_denied", "not_found"}, name
    assert not (root / "new" / ".git").exists()
    assert not (root / ".git" / "hooks" / "new").exists()
    assert (root / ".git" / "config").read_text() == "secret"


async def test_a_directory_that_holds_what_is_protected_is_not_deleted(sandbox: Sandbox, root: Path) -> None:
    (root / "sub" / ".git").mkdir(parents=True)
    assert await refusal(sandbox.delete("/deep")) == "permission_denied"
    assert (root / "deep" / "hidden" / "file").exists()


async def test_the_rest_of_a_workspace_is_free(sandbox: Sandbox) -> None:
    await sandbox.write_text("/.git/info/exclude", "x")
    await sandbox.write_text("/new/file", "x")
    await sandbox.delete("/new")
    assert await output(sandbox, "cat .git/info/exclude") == "x"


async def test_at_read_only_nothing_is_written(tmp_path: Path, root: Path) -> None:
    level = Confinement(files="read_only")
    async with opened_locally(tmp_path) as executor, executor.open(SandboxSpec("e", confinement=level)) as opened:
        for name, operation in WRITE.items():
            assert await refusal(operation(opened, "/plain")) == "permission_denied", name
        assert await refusal(opened.write_text("/made/for/it", "x")) == "permission_denied"
        assert await downloaded(opened, "/plain") == b"secret"
    assert not (root / "made").exists()


async def test_the_environment_of_the_service_is_not_changed_where_it_lies_in_the_root(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command adds there would run in the service at its next start, outside of every cell."""
    (root / "project" / ".venv" / "lib").mkdir(parents=True)
    (root / "project" / ".venv" / "lib" / "module.py").write_text("secret")
    monkeypatch.setattr(sys, "prefix", str(root / "project" / ".venv"))
    level = Confinement(files="workspace")
    async with opened_locally(tmp_path) as executor, executor.open(SandboxSpec("e", confinement=level)) as opened:
        for name, operation in WRITE.items():
            assert await refusal(operation(opened, "/project/.venv/lib/module.py")) == "permission_denied", name
        assert await refusal(opened.delete("/project")) == "permission_denied"
        assert await output(opened, "echo x > project/.venv/lib/new.pth || echo held") == "held\n"
        assert await output(opened, "mv project/.venv elsewhere || mv project elsewhere || echo held") == "held\n"
        assert await output(opened, "echo x > project/file; cat project/file project/.venv/lib/*") == "x\nsecret"
