"""All storage of a service."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runner_service.storage.activities import ActivityStore
from runner_service.storage.audit import AuditStore
from runner_service.storage.changes import ContentStore
from runner_service.storage.checkpoints import OpenCheckpoints
from runner_service.storage.event_log import EventLog
from runner_service.storage.ownership import Ownership, Replicas
from runner_service.storage.scratch_files import ScratchFiles
from runner_service.storage.usage import UsageStore


class Storage(Protocol):
    """What a service stores, and where: one implementation is chosen at the start, by `app`."""

    @property
    def log(self) -> EventLog:
        """Executions, events, outputs and the journal."""

    @property
    def contents(self) -> ContentStore:
        """Contents of files that executions changed."""

    @property
    def ownership(self) -> Ownership:
        """Which process works on an execution."""

    @property
    def replicas(self) -> Replicas | None:
        """The replicas that share the storage; None when this process has it for itself."""

    @property
    def audit(self) -> AuditStore:
        """Who did what."""

    @property
    def usage(self) -> UsageStore:
        """What tenants have used."""

    @property
    def scratch_files(self) -> ScratchFiles:
        """What agents offload from their context."""

    def open_activities(self) -> AbstractAsyncContextManager[ActivityStore]:
        """Opens the activities of Temporal. Entering raises LogError."""

    def load_checkpoints(self) -> OpenCheckpoints:
        """Imports what opens the checkpoints. Blocks for up to a second: call it in a thread."""
