"""Offloaded files of a thread, as deepagents accesses them. Importing this takes up to a second."""

from deepagents.backends import FilesystemBackend
from deepagents.backends.protocol import GlobResult, GrepResult


class OffloadedFiles(FilesystemBackend):
    """Files of deepagents. Its globs run as regular expressions that can take forever, so none is passed to it."""

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Points to `ls`."""
        del pattern
        return GlobResult(error=f"glob does not look into {path}; use ls")

    async def agrep(
        self,
        pattern: str,
        path: str | None = None,
        glob: str | None = None,
        *,
        max_count: int | None = None,
        context_lines: int = 0,
    ) -> GrepResult:
        """Finds lines by a literal text, in all files."""
        del glob
        return await super().agrep(pattern, path, max_count=max_count, context_lines=context_lines)
