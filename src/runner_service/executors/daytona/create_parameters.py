"""Builds Daytona's parameters for a new sandbox."""

import asyncio
import time
from typing import TYPE_CHECKING

from runner_service.executors.daytona.config import KIND, LEASE, MINUTES_PER_DAY, NAME, OWNER, SandboxConfig, SandboxRef
from runner_service.executors.daytona.failures import FailureKind, RefusedError
from runner_service.executors.daytona.retries import CallFailedError, retry

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromSnapshotParams, VolumeMount

_CALL_TIMEOUT_SECONDS = 15.0


class SandboxParameters:
    """Describes sandboxes to Daytona, and checks that they are as described."""

    def __init__(self, client: "AsyncDaytona", config: SandboxConfig) -> None:
        self._client = client
        self._config = config
        self._volume_ids: dict[str, str] = {}

    async def of(self, ref: SandboxRef) -> "CreateSandboxFromSnapshotParams":
        """Returns the parameters of a new one. Sets no environment, so that it can come from Daytona's own warm pool.

        Raises:
            SandboxError: a volume does not exist, or Daytona does not answer.
        """
        from daytona import CreateSandboxFromSnapshotParams  # noqa: PLC0415  # see `sdk`

        config = self._config
        return CreateSandboxFromSnapshotParams(
            name=ref.name,
            snapshot=config.snapshot or None,
            labels=self.labels(ref),
            auto_stop_interval=config.auto_stop_minutes,
            ephemeral=None if ref.kind == "session" else True,
            ttl_minutes=config.ttl_minutes if ref.kind == "execution" else None,
            auto_delete_interval=config.session_days * MINUTES_PER_DAY if ref.kind == "session" else None,
            network_block_all=True if config.network_block_all else None,
            network_allow_list=config.network_allow_list or None,
            volumes=await self._volumes() or None,
        )

    def labels(self, ref: SandboxRef) -> dict[str, str]:
        """Returns the labels of a sandbox whose lease starts now."""
        return {OWNER: self._config.owner, KIND: ref.kind, LEASE: self.lease_end(), NAME: ref.name}

    def lease_end(self) -> str:
        """Returns the end of a lease that starts now."""
        return str(int(time.time() + self._config.lease))

    def check(self, sandbox: "AsyncSandbox") -> None:
        """Raises RefusedError unless a sandbox is ours, with its network as limited as it is to be."""
        config = self._config
        if sandbox.labels.get(OWNER) != config.owner:
            raise RefusedError(
                "a sandbox of that name belongs to somebody else; give this service its own DAYTONA_OWNER"
            )
        blocks_all = bool(getattr(sandbox, "network_block_all", False))
        allowed = str(getattr(sandbox, "network_allow_list", None) or "")
        if (config.network_block_all and not blocks_all) or (
            config.network_allow_list and not blocks_all and allowed != config.network_allow_list
        ):
            raise RefusedError(
                "the network of the sandbox is not limited as DAYTONA_NETWORK_BLOCK_ALL and DAYTONA_NETWORK_ALLOW_LIST "
                "say: it was created before they were set, or the organisation's tier does not allow it"
            )

    async def _volumes(self) -> "list[VolumeMount]":
        from daytona import VolumeMount  # noqa: PLC0415  # see `sdk`

        mounts = self._config.volumes
        ids = await asyncio.gather(*(self._volume_id(name) for name, _ in mounts))
        return [VolumeMount(volume_id=each, mount_path=path) for each, (_, path) in zip(ids, mounts, strict=True)]

    async def _volume_id(self, name: str) -> str:
        if name not in self._volume_ids:
            try:
                volume = await retry(
                    "the volumes",
                    lambda: self._client.volume.get(name),
                    attempt_timeout=_CALL_TIMEOUT_SECONDS,
                    total_timeout=2 * _CALL_TIMEOUT_SECONDS,
                    handled=(FailureKind.MISSING,),
                )
            except CallFailedError:
                raise RefusedError(f"Daytona does not know the volume {name} of DAYTONA_VOLUMES") from None
            self._volume_ids[name] = str(volume.id)
        return self._volume_ids[name]
