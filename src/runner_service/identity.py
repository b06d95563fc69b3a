"""Who calls, and to whom an execution belongs.

Inside the service an execution or session is named by its owner's key, `<tenant>~<id>`, or the id alone for the tenant
`default`. Keys are made in `api` from the caller's tenant and taken off there again, so that another tenant's id is
not there, rather than filtered out. `~` is in no id, and is safe in file names.
"""

import math
import re
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

OwnerKey = NewType("OwnerKey", str)
"""Names an execution or a session among those of all tenants."""

NO_KEY = OwnerKey("")
"""Where a key is optional: none."""

DEFAULT_TENANT = "default"
"""The tenant of everything when no CALLERS_FILE is set, and of what is older than tenants."""

ANY_TENANT = "*"
"""In `ListExecutionsRequest.tenant`: those of all tenants. For operators."""

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""The name of a tenant."""

TEMPORAL = "temporal"
"""The name of the caller whose activities the Temporal worker runs."""

_SEPARATOR = "~"


class Role(StrEnum):
    """What a caller may do; `api.callers.roles` has the rpcs of each."""

    WATCH = "watch"
    RUN = "run"
    APPROVE = "approve"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a call. `tenant` is the one that it acts for, `home_tenant` the one that it belongs to."""

    name: str
    home_tenant: str = DEFAULT_TENANT
    tenant: str = DEFAULT_TENANT
    roles: frozenset[Role] = frozenset()
    acts_for: frozenset[str] = frozenset()
    """Other tenants that it may act for. Operators may for all."""
    until: float = math.inf
    """Unix time at which its credential expires."""
    with_certificates: frozenset[tuple[str, str]] = frozenset()
    """Kinds and values of names: its token counts only with a client certificate that has one. Empty: alone."""

    @property
    def is_operator(self) -> bool:
        """True for one that may do everything, for every tenant."""
        return Role.OPERATE in self.roles

    def message(self) -> event_pb2.Caller:
        """Returns the caller as records and events name it."""
        return event_pb2.Caller(name=self.name, home_tenant=self.home_tenant, tenant=self.tenant)


OPERATOR = Caller("operator", roles=frozenset({Role.OPERATE}))
"""Who calls when nobody is told apart: with AUTH_TOKEN, or without any token where none is needed."""

current_caller: ContextVar[Caller] = ContextVar("caller")
"""The caller of the current call; in the task of an execution, its starter. Unset elsewhere: nobody is anonymous."""


def owner_key(tenant: str, name: str) -> OwnerKey:
    """Returns the key of a tenant's execution or session."""
    return OwnerKey(name if tenant == DEFAULT_TENANT else f"{tenant}{_SEPARATOR}{name}")


def bare_id(key: str) -> str:
    """Returns the id that the caller knows, for everything that callers see."""
    return key.rpartition(_SEPARATOR)[2]


def tenant_of(key: str) -> str:
    """Returns the tenant that owns an execution or session."""
    return key.partition(_SEPARATOR)[0] if _SEPARATOR in key else DEFAULT_TENANT


class _NamesBoth(Protocol):
    execution_id: str
    session_id: str


def ids_to_keys(message: _NamesBoth, tenant: str) -> None:
    """Replaces the ids in a request, as far as they are set, by the keys of a tenant."""
    for field in ("execution_id", "session_id"):
        if value := getattr(message, field):
            setattr(message, field, owner_key(tenant, value))


def keys_to_ids(record: runner_pb2.Execution) -> runner_pb2.Execution:
    """Replaces the keys in a record that is to leave the service by ids and the tenant. Returns the same record."""
    record.tenant = tenant_of(record.execution_id)
    record.execution_id, record.session_id = bare_id(record.execution_id), bare_id(record.session_id)
    return record
