"""What the service must be set up with before it serves several tenants."""

from typing import TYPE_CHECKING

from runner_service.api.callers.file_errors import CallersFileError
from runner_service.settings import Settings

if TYPE_CHECKING:
    from runner_service.api.callers.directory import Directory


def require_isolation(settings: Settings, directory: "Directory | None") -> None:
    """Checks that the commands of one tenant cannot read what another one has.

    Raises:
        CallersFileError: they could; the message says which setting prevents it.
    """
    tenants = sorted(directory.file.tenant_names()) if directory else []
    if len(tenants) <= 1 or not settings.is_local_mode():
        return
    wanted = []
    if settings.sandbox_scope == "shared":
        wanted.append("SANDBOX_SCOPE=session")
    if settings.sandbox_confinement == "none":
        wanted.append("SANDBOX_CONFINEMENT=workspace")
    if wanted:
        raise CallersFileError(
            f"CALLERS_FILE has the tenants {', '.join(tenants)}, and local commands of one could read the files of "
            f"another: set {' and '.join(wanted)}, or run a service for each"
        )
