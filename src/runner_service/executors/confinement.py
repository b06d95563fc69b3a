"""Confinement levels of an execution: what its tools may read, write and reach, and how two levels combine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from runner_service.allowed_hosts import AllowedHost

FilesLevel = Literal["none", "workspace", "read_only", "strict"]
NetworkLevel = Literal["all", "proxy", "none"]

_AT_LEAST: dict[FilesLevel, set[FilesLevel]] = {
    "none": {"none", "workspace", "read_only", "strict"},
    "workspace": {"workspace", "read_only", "strict"},
    "read_only": {"read_only"},
    "strict": {"strict"},
}
_NETWORKS: Sequence[NetworkLevel] = ("all", "proxy", "none")


class LooseningError(ValueError):
    """A request asks for less confinement than the operator requires. `field` is of the request's confinement."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field
        self.text = text


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the tools of an execution may do. Paths are absolute; see docs/confinement.md for the levels."""

    files: FilesLevel = "none"
    network: NetworkLevel = "all"
    allowed_hosts: tuple[AllowedHost, ...] = ()
    readable_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.files != "none" or self.network != "all"

    def tightened(self, asked: "Requested") -> "Confinement":
        """Returns the confinement of a request under this one, the operator's minimum.

        Raises:
            LooseningError: the request asks for less.
        """
        files = asked.files or self._implied_files(asked)
        if files not in _AT_LEAST[self.files]:
            raise LooseningError("files", f"must not be less than SANDBOX_CONFINEMENT={self.files}")
        network = asked.network or self.network
        if _NETWORKS.index(network) < _NETWORKS.index(self.network):
            raise LooseningError("network", f"must not be less than SANDBOX_NETWORK={self.network}")
        if network != "all" and files == "none":
            raise LooseningError("network", "needs files to be FILES_WORKSPACE or more")
        return replace(
            self,
            files=files,
            network=network,
            allowed_hosts=self._tightened_hosts(asked, network),
            readable_paths=self._tightened_paths("readable_paths", self.readable_paths, asked.readable_paths),
            writable_paths=self._tightened_paths("writable_paths", self.writable_paths, asked.writable_paths),
            hidden_paths=(*self.hidden_paths, *asked.hidden_paths),
        )

    def _implied_files(self, asked: "Requested") -> FilesLevel:
        is_confined = asked.network not in {None, "all"}
        return "workspace" if is_confined and self.files == "none" else self.files

    def _tightened_hosts(self, asked: "Requested", network: NetworkLevel) -> tuple[AllowedHost, ...]:
        if network != "proxy":
            if asked.allowed_hosts:
                raise LooseningError("allowed_hosts", "needs network to be NETWORK_PROXY")
            return ()
        if self.network != "proxy":
            return asked.allowed_hosts
        for host in asked.allowed_hosts:
            if not any(own.covers(host) for own in self.allowed_hosts):
                raise LooseningError("allowed_hosts", f"{host} is not among SANDBOX_ALLOWED_HOSTS")
        return asked.allowed_hosts or self.allowed_hosts

    def _tightened_paths(self, field: str, own: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the paths of a request, which lie below the operator's if the operator requires any level."""
        if not self:
            return (*own, *asked)
        for path in asked:
            if not any(is_below(path, each) for each in own):
                variable = f"SANDBOX_{field.upper()}"
                raise LooseningError(field, f"{path} must lie below one of {variable}")
        return asked or own


@dataclass(frozen=True, slots=True)
class Requested:
    """What a request asks for; None stands for the operator's minimum."""

    files: FilesLevel | None = None
    network: NetworkLevel | None = None
    allowed_hosts: tuple[AllowedHost, ...] = ()
    readable_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfinementInForce:
    """What is in force, as in the `started` event: levels, mechanism (`none` when not confined), and known gaps."""

    files: FilesLevel = "none"
    network: NetworkLevel = "all"
    mechanism: str = "none"
    gaps: tuple[str, ...] = ()


def is_below(path: str, directory: str) -> bool:
    """Returns whether an absolute path without `..` is `directory` or lies below it."""
    return PurePosixPath(path).is_relative_to(directory)
